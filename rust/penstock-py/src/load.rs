//! The load generator and the stub server for Python; `penstock/lab/bench/wire/` checks what it passes on.

use crate::NativeError;
use penstock_load::clock::Nanos;
use penstock_load::generator::Generator;
use penstock_load::job::Submission;
use penstock_load::outcomes::{Columns, Ending, Outcome};
use penstock_load::shared::Target;
use penstock_load::stub::behaviour::{Behaviour, Distribution, Fault};
use penstock_load::stub::server::Stub;
use penstock_load::tls;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

fn raise(error: impl std::fmt::Display) -> PyErr {
    NativeError::new_err(error.to_string())
}

fn address_of(host: &str, port: u16) -> PyResult<SocketAddr> {
    Ok(SocketAddr::new(host.parse().map_err(raise)?, port))
}

/// One thread that makes requests of one server and stamps what comes back.
#[pyclass(name = "LoadGenerator", module = "penstock._native")]
pub(crate) struct PyGenerator(Generator);

#[pymethods]
impl PyGenerator {
    /// `tls_name`: the name the server's certificate must be for; without it, plain HTTP. `tls_authorities`: PEM of
    /// those to be trusted beside the system's.
    #[new]
    #[pyo3(signature = (ip, port, *, slots, timeout, keep_alive = true, keep_text = 0, tls_name = None, tls_authorities = None))]
    fn new(
        ip: &str,
        port: u16,
        slots: usize,
        timeout: f64,
        keep_alive: bool,
        keep_text: usize,
        tls_name: Option<&str>,
        tls_authorities: Option<Vec<u8>>,
    ) -> PyResult<Self> {
        let tls = tls_name.map(|name| tls::for_server(name, tls_authorities.as_deref())).transpose().map_err(raise)?;
        let timeout = (timeout * 1e9) as Nanos;
        let target = Target { address: address_of(ip, port)?, tls, slots, timeout, keep_alive, keep_text };
        Generator::start(target).map(Self).map_err(raise)
    }

    /// Each: the caller's number, when it is due (ns of `time.monotonic_ns()`; None: when a slot is free), the whole
    /// HTTP request.
    fn submit(&self, requests: Vec<(u64, Option<Nanos>, Vec<u8>)>) -> PyResult<()> {
        let submissions = requests.into_iter().map(|(id, due, wire)| Submission { id, due, wire });
        self.0.submit(submissions.collect()).map_err(raise)
    }

    /// No more will come.
    fn close(&self) -> PyResult<()> {
        self.0.close().map_err(raise)
    }

    /// Send no more; let what is under way end.
    fn drain(&self) -> PyResult<()> {
        self.0.drain().map_err(raise)
    }

    /// End at once.
    fn cut(&self) -> PyResult<()> {
        self.0.cut().map_err(raise)
    }

    /// Wait until all is over or, `for_endings`, there is something to take, `timeout` seconds at most. Whether all is
    /// over.
    #[pyo3(signature = (timeout, *, for_endings = false))]
    fn wait(&self, py: Python<'_>, timeout: f64, for_endings: bool) -> PyResult<bool> {
        let timeout = Duration::try_from_secs_f64(timeout).map_err(raise)?;
        py.detach(|| self.0.wait(timeout, for_endings)).map_err(raise)
    }

    /// What has ended since the last call, as columns.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        columns(py, &self.0.take())
    }

    /// Counts so far.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = self.0.counters();
        let each: [(&str, &AtomicU64); 7] = [
            ("sent", &counters.sent),
            ("finished", &counters.finished),
            ("failed", &counters.failed),
            ("pieces", &counters.pieces),
            ("in_flight", &counters.in_flight),
            ("waiting", &counters.waiting),
            ("retried", &counters.retried),
        ];
        let dict = PyDict::new(py);
        for (name, value) in each {
            dict.set_item(name, value.load(Relaxed))?;
        }
        Ok(dict)
    }

    /// How the client itself fared, in seconds; complete once all is over.
    fn health<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let health = self.0.health();
        let dict = PyDict::new(py);
        for (name, lag) in [("schedule_delay", &health.schedule), ("loop_lag", &health.turn)] {
            for (quantile, share) in [("p50", 0.5), ("p99", 0.99)] {
                dict.set_item(format!("{name}_{quantile}"), lag.quantile(share) as f64 / 1e9)?;
            }
            dict.set_item(format!("{name}_max"), lag.max as f64 / 1e9)?;
        }
        dict.set_item("cpu", health.cpu as f64 / 1e9)?;
        dict.set_item("cpu_wait", health.cpu_wait.map(|wait| wait as f64 / 1e9))?;
        dict.set_item("wall", health.wall as f64 / 1e9)?;
        Ok(dict)
    }
}

fn columns<'py>(py: Python<'py>, columns: &Columns) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let times = |name: &str, field: fn(&Outcome) -> u64| {
        let bytes: Vec<u8> = columns.outcomes.iter().flat_map(|outcome| field(outcome).to_ne_bytes()).collect();
        dict.set_item(name, PyBytes::new(py, &bytes))
    };
    times("id", |o| o.id)?;
    times("due", |o| o.due)?;
    times("sent", |o| o.sent)?;
    times("connected", |o| o.connected)?;
    times("first_byte", |o| o.first_byte)?;
    times("first_text", |o| o.first_text)?;
    times("last_text", |o| o.last_text)?;
    times("end", |o| o.end)?;
    let counts = |name: &str, field: fn(&Outcome) -> i32| {
        let bytes: Vec<u8> = columns.outcomes.iter().flat_map(|outcome| field(outcome).to_ne_bytes()).collect();
        dict.set_item(name, PyBytes::new(py, &bytes))
    };
    counts("ending", |o| o.ending as i32)?;
    counts("status", |o| i32::from(o.status))?;
    counts("finish", |o| i32::from(o.finish))?;
    counts("prompt_tokens", |o| o.prompt_tokens)?;
    counts("completion_tokens", |o| o.completion_tokens)?;
    counts("cached_tokens", |o| o.cached_tokens)?;
    counts("text_bytes", |o| o.text_bytes as i32)?;
    let flat = |bytes: Vec<u8>| PyBytes::new(py, &bytes);
    dict.set_item("piece_counts", flat(columns.piece_counts.iter().flat_map(|n| n.to_ne_bytes()).collect()))?;
    dict.set_item("piece_gaps", flat(columns.pieces.iter().flat_map(|piece| piece.gap.to_ne_bytes()).collect()))?;
    dict.set_item("piece_tokens", flat(columns.pieces.iter().flat_map(|piece| piece.tokens.to_ne_bytes()).collect()))?;
    dict.set_item("piece_bytes", flat(columns.pieces.iter().flat_map(|piece| piece.bytes.to_ne_bytes()).collect()))?;
    dict.set_item("texts", columns.texts.clone())?;
    dict.set_item("details", columns.details.clone())?;
    Ok(dict)
}

/// The names of `ending`'s values, in their order.
#[pyfunction]
pub(crate) fn load_endings() -> Vec<&'static str> {
    let all = [
        (Ending::Whole, "whole"),
        (Ending::Connect, "connect"),
        (Ending::Tls, "tls"),
        (Ending::Timeout, "timeout"),
        (Ending::Broken, "broken"),
        (Ending::Status, "status"),
        (Ending::Truncated, "truncated"),
        (Ending::Malformed, "malformed"),
        (Ending::InStream, "in_stream"),
        (Ending::Empty, "empty"),
        (Ending::Cut, "cut"),
    ];
    debug_assert!(all.iter().enumerate().all(|(i, (ending, _))| *ending as usize == i));
    all.map(|(_, name)| name).to_vec()
}

/// A server with known delays, in a thread of its own.
#[pyclass(name = "StubServer", module = "penstock._native")]
pub(crate) struct PyStub(Option<Stub>, SocketAddr);

type PyDistribution = (String, f64, f64);

#[pymethods]
impl PyStub {
    /// Distributions are a name and two numbers; `faults` are a share, a name and, for "status", the status.
    #[new]
    #[pyo3(signature = (ip, port, *, first_token, gap, tokens, tokens_per_piece, slots, stalls, faults, usage, seed))]
    fn new(
        ip: &str,
        port: u16,
        first_token: PyDistribution,
        gap: PyDistribution,
        tokens: Option<PyDistribution>,
        tokens_per_piece: u32,
        slots: Option<usize>,
        stalls: Vec<(f64, f64)>,
        faults: Vec<(f64, String, u16)>,
        usage: bool,
        seed: u64,
    ) -> PyResult<Self> {
        let behaviour = Behaviour {
            first_token: distribution(&first_token)?,
            gap: distribution(&gap)?,
            tokens: tokens.as_ref().map(distribution).transpose()?,
            tokens_per_piece,
            slots,
            stalls,
            faults: faults.iter().map(fault).collect::<PyResult<_>>()?,
            usage,
            seed,
        };
        let stub = Stub::start(address_of(ip, port)?, behaviour).map_err(raise)?;
        let address = stub.address;
        Ok(Self(Some(stub), address))
    }

    /// Where it listens.
    #[getter]
    fn port(&self) -> u16 {
        self.1.port()
    }

    /// End it. What it died of, if it did before, is raised.
    fn stop(&mut self, py: Python<'_>) -> PyResult<()> {
        let Some(stub) = self.0.take() else { return Ok(()) };
        py.detach(|| stub.stop()).map_err(raise)
    }
}

fn distribution((name, a, b): &PyDistribution) -> PyResult<Distribution> {
    Ok(match name.as_str() {
        "constant" => Distribution::Constant(*a),
        "uniform" => Distribution::Uniform(*a, *b),
        "exponential" => Distribution::Exponential(*a),
        "lognormal" => Distribution::Lognormal(*a, *b),
        "pareto" => Distribution::Pareto(*a, *b),
        _ => return Err(raise(format!("There is no distribution called '{name}'."))),
    })
}

fn fault((share, name, status): &(f64, String, u16)) -> PyResult<(f64, Fault)> {
    let fault = match name.as_str() {
        "status" => Fault::Status(*status),
        "cut" => Fault::Cut,
        "malformed" => Fault::Malformed,
        "in_stream" => Fault::InStream,
        "hang" => Fault::Hang,
        _ => return Err(raise(format!("There is no fault called '{name}'."))),
    };
    Ok((*share, fault))
}
