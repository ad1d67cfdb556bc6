//! Which CPUs there are for the runner's threads, and which of them the threads take.
//!
//! Threads go to a physical core each before any two share one: two on a core share its arithmetic units and its
//! first caches, which one thread of the kernels fills nearly alone. Among cores, a NUMA node is filled before the
//! next, so that a pool which fits into one node keeps its counters, activations and caches there; within a node the
//! faster cores come first. Tasks are claimed one by one, so slower cores help without holding the others up.
//!
//! With threads on several nodes, memory is interleaved over these, page by page. Which thread claims which tile of
//! weights changes from step to step, so no page has a node where it would be best; left alone, pages would lie where
//! they were first touched, and one node's memory could serve most of a step while the others' idles.

use crate::affinity::{self, MAX, Set};
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

/// A logical CPU that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cpu {
    id: usize,
    core: usize, // the first of the CPUs that share its physical core
    rank: usize, // among the usable ones of that core
    node: usize,
    speed: u64, // as far as the system tells; only for comparisons
}

/// The CPUs that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// In the order in which threads take them.
    cpus: Vec<Cpu>,
    /// Whether threads can be told where to run.
    pinnable: bool,
    /// Whether the system told which CPUs share a core.
    known: bool,
    /// Whether these are all CPUs that are online.
    whole: bool,
    /// Whether the system keeps other processes off them.
    isolated: bool,
}

impl Topology {
    /// This machine's.
    pub fn here() -> Topology {
        match affinity::allowed() {
            Ok(allowed) => Topology::read(Path::new("/"), &allowed.numbers()),
            Err(_) => Topology::counted(std::thread::available_parallelism().map_or(1, usize::from)),
        }
    }

    /// So many CPUs, of which nothing else is known.
    fn counted(count: usize) -> Topology {
        let cpus = (0..count).map(|id| Cpu { id, core: id, rank: 0, node: 0, speed: 0 }).collect();
        Topology { cpus, pinnable: false, known: false, whole: false, isolated: false }
    }

    /// What `sys` under `root` tells about the `allowed` CPUs, ascending. A CPU it says nothing of counts as a core.
    pub fn read(root: &Path, allowed: &[usize]) -> Topology {
        let system = root.join("sys/devices/system");
        let nodes = nodes(&system);
        let (mut known, mut on_core) = (true, HashMap::<usize, usize>::new());
        let mut cpus: Vec<Cpu> = allowed
            .iter()
            .map(|&id| {
                let folder = system.join(format!("cpu/cpu{id}"));
                let siblings = read_list(&folder.join("topology/thread_siblings_list"));
                known &= !siblings.is_empty();
                let core = siblings.first().copied().unwrap_or(id);
                let count = on_core.entry(core).or_default();
                *count += 1;
                let speed = ["cpu_capacity", "cpufreq/cpuinfo_max_freq"]
                    .iter()
                    .find_map(|file| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok());
                Cpu {
                    id,
                    core,
                    rank: *count - 1,
                    node: nodes.get(&id).copied().unwrap_or(0),
                    speed: speed.unwrap_or(0),
                }
            })
            .collect();
        if on_core.len() == 1 {
            // One thread would wait for memory with half of the core's requests unused, so all siblings work.
            cpus.iter_mut().for_each(|cpu| (cpu.core, cpu.rank) = (cpu.id, 0));
        }
        cpus.sort_by_key(|cpu| (cpu.rank, cpu.node, Reverse(cpu.speed), cpu.core, cpu.id));
        let (online, isolated) = (read_list(&system.join("cpu/online")), read_list(&system.join("cpu/isolated")));
        Topology {
            cpus,
            pinnable: true,
            known,
            whole: !online.is_empty() && online.iter().all(|id| allowed.contains(id)),
            isolated: allowed.iter().all(|id| isolated.contains(id)),
        }
    }

    /// Physical cores.
    fn cores(&self) -> usize {
        self.cpus.iter().filter(|cpu| cpu.rank == 0).count()
    }

    /// Decide how many threads there are and where.
    ///
    /// # Errors
    /// If no core is left for the runner, or threads are to be pinned that can't be.
    pub fn place(&self, wish: &Wish) -> Result<Placement> {
        let cores = self.cores();
        let share = wish.quota.map_or(cores, |quota| cores.min(quota.ceil() as usize)).max(1);
        if wish.reserve >= share {
            let left = format!("--reserve-cores {} leaves the engine none of {share} cores", wish.reserve);
            return Err(Error::Config(format!("{left}: reserve fewer.")));
        }
        let usual = share - wish.reserve;
        let threads = wish.threads.unwrap_or(usual).max(1);
        let reserved: Vec<usize> = self.cpus[cores - wish.reserve..cores].iter().map(|cpu| cpu.core).collect();
        let free: Vec<Cpu> = self.cpus.iter().filter(|cpu| !reserved.contains(&cpu.core)).copied().collect();

        let impossible = if !self.pinnable {
            Some("this system has no way to".to_string())
        } else if threads > free.len() {
            Some(format!("there are {threads} threads and {} CPUs", free.len()))
        } else {
            None
        };
        let unpinned = match (wish.pin, impossible) {
            (Pin::On, Some(why)) => {
                return Err(Error::Config(format!("Threads can't be pinned: {why}. Choose --pin-threads auto.")));
            }
            (Pin::Off, _) => Some("--pin-threads is off".to_string()),
            (_, Some(why)) => Some(why),
            (Pin::On, None) => None,
            (Pin::Auto, None) => self.doubt(wish, threads == usual).map(str::to_string),
        };
        let taken = if unpinned.is_none() { &free[..threads] } else { &free[..] };
        let mut nodes: Vec<usize> = taken.iter().map(|cpu| cpu.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Ok(Placement {
            threads,
            cpus: if unpinned.is_none() { taken.iter().map(|cpu| cpu.id).collect() } else { Vec::new() },
            nodes: if nodes.len() > 1 { nodes } else { Vec::new() },
            unpinned,
            uneven: None,
            insists: wish.pin == Pin::On,
        })
    }

    /// Why pinning might do harm: a pinned thread can't make way for another process on its CPU, be it our own server
    /// or a second engine, which would take the same CPUs in the same order. So it takes somebody's word, the kernel's
    /// (`isolcpus`, where no thread moves unless told to) or the operator's who reserves cores.
    fn doubt(&self, wish: &Wish, usual: bool) -> Option<&'static str> {
        if self.isolated {
            None
        } else if wish.reserve == 0 {
            Some("no core is left to the server, see --reserve-cores")
        } else if !self.known {
            Some("the system doesn't tell which CPUs are cores")
        } else if !self.whole || wish.quota.is_some() {
            Some("this process has a part of the machine, and others may have the same CPUs")
        } else if !usual {
            Some("--threads differs from the cores left")
        } else {
            None
        }
    }
}

/// The node of each CPU; nothing where the system tells of none.
fn nodes(system: &Path) -> HashMap<usize, usize> {
    read_list(&system.join("node/online"))
        .into_iter()
        .flat_map(|node| {
            let cpus = read_list(&system.join(format!("node/node{node}/cpulist")));
            cpus.into_iter().map(move |cpu| (cpu, node))
        })
        .collect()
}

/// The numbers of a list such as "0-3,8"; none if there is no such file, or it is no such list.
fn read_list(file: &Path) -> Vec<usize> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let ranges = text.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse().ok()?, last.parse().ok().filter(|&last: &usize| last < MAX)?))
    });
    let ranges: Option<Vec<(usize, usize)>> = ranges.collect();
    ranges.unwrap_or_default().into_iter().flat_map(|(first, last)| first..=last).collect()
}

/// Numbers as such a list.
fn list(numbers: &[usize]) -> String {
    let numbers = Set::of(numbers).numbers();
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let words: Vec<String> = runs
        .map(|run| match run {
            [one] => one.to_string(),
            _ => format!("{}-{}", run[0], run[run.len() - 1]),
        })
        .collect();
    words.join(",")
}

/// Whether each thread stays on a CPU of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Where it can do no harm.
    Auto,
    /// Yes, or an error.
    On,
    /// No.
    Off,
}

impl FromStr for Pin {
    type Err = Error;

    fn from_str(name: &str) -> Result<Pin> {
        match name {
            "auto" => Ok(Pin::Auto),
            "on" => Ok(Pin::On),
            "off" => Ok(Pin::Off),
            _ => Err(Error::Config(format!("Unknown pinning '{name}': auto, on or off."))),
        }
    }
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Threads; as many as there are cores by default.
    pub threads: Option<usize>,
    /// Cores left to others, of those that threads would take last.
    pub reserve: usize,
    /// Whether to pin.
    pub pin: Pin,
    /// The time of so many CPUs is all that this process gets.
    pub quota: Option<f64>,
}

/// How many threads there are and where; [`fmt::Display`] says it to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    threads: usize,
    cpus: Vec<usize>,         // of each thread; none: not pinned
    nodes: Vec<usize>,        // that memory is interleaved over; none: it lies where it is touched
    unpinned: Option<String>, // why
    uneven: Option<String>,   // why memory isn't interleaved although there are several nodes
    insists: bool,
}

impl Placement {
    /// Threads that run where the system puts them.
    pub fn anywhere(threads: usize) -> Placement {
        let unpinned = Some("nobody asked".to_string());
        Placement { threads: threads.max(1), cpus: vec![], nodes: vec![], unpinned, uneven: None, insists: false }
    }

    /// How many, at least one.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The CPU of a thread, if it is pinned.
    pub fn cpu(&self, thread: usize) -> Option<usize> {
        self.cpus.get(thread).copied()
    }

    /// The nodes that memory is interleaved over; none where it isn't.
    pub fn nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// The same without pinning, which the system refused.
    ///
    /// # Errors
    /// If pinning was insisted on.
    pub fn refused(mut self, why: &std::io::Error) -> Result<Placement> {
        if self.insists {
            return Err(Error::Config(format!(
                "The system refused to pin threads to CPUs {}: {why}.",
                list(&self.cpus)
            )));
        }
        self.cpus.clear();
        self.unpinned = Some(format!("the system refused: {why}"));
        Ok(self)
    }

    /// The same with memory left where it is touched, because it can't be interleaved.
    pub fn uneven(mut self, why: &std::io::Error) -> Placement {
        self.nodes.clear();
        self.uneven = Some(why.to_string());
        self
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unpinned {
            None => write!(f, "pinned to CPUs {}", list(&self.cpus))?,
            Some(why) => write!(f, "not pinned: {why}")?,
        }
        match &self.uneven {
            Some(why) => write!(f, "; memory not interleaved: {why}"),
            None if self.nodes.is_empty() => Ok(()),
            None => write!(f, "; memory interleaved over nodes {}", list(&self.nodes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A made-up tree, removed when dropped.
    struct Tree(PathBuf);

    impl Tree {
        /// A tree whose CPUs have these siblings, with the nodes' CPUs.
        fn new(siblings: &[&str], nodes: &[&str]) -> Tree {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let name = format!("penstock-topology-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let tree = Tree(std::env::temp_dir().join(name));
            for (cpu, list) in siblings.iter().enumerate() {
                tree.write(&format!("cpu/cpu{cpu}/topology/thread_siblings_list"), list);
            }
            for (node, list) in nodes.iter().enumerate() {
                tree.write(&format!("node/node{node}/cpulist"), list);
            }
            tree.write("node/online", &format!("0-{}", nodes.len().max(1) - 1));
            tree.write("cpu/online", &format!("0-{}", siblings.len() - 1));
            tree.write("cpu/isolated", "");
            tree
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.join("sys/devices/system").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }

        fn read(&self, allowed: &[usize]) -> Topology {
            Topology::read(&self.0, allowed)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const PLAIN: Wish = Wish { threads: None, reserve: 0, pin: Pin::Auto, quota: None };
    const PINNED: Wish = Wish { pin: Pin::On, ..PLAIN };

    fn order(topology: &Topology) -> Vec<usize> {
        topology.cpus.iter().map(|cpu| cpu.id).collect()
    }

    fn placed(topology: &Topology, wish: Wish) -> Placement {
        topology.place(&wish).unwrap()
    }

    fn error(topology: &Topology, wish: Wish) -> String {
        topology.place(&wish).unwrap_err().to_string()
    }

    #[test]
    fn cores_come_before_their_siblings() {
        let tree = Tree::new(&["0,2", "1,3", "0,2", "1,3"], &["0-3"]);
        let topology = tree.read(&[0, 1, 2, 3]);
        assert_eq!(order(&topology), [0, 1, 2, 3]);
        assert_eq!(placed(&topology, PLAIN).threads(), 2);
        assert_eq!(placed(&topology, PINNED).cpus, [0, 1]);
        let neighbours = Tree::new(&["0-1", "0-1", "2-3", "2-3"], &["0-3"]).read(&[0, 1, 2, 3]);
        assert_eq!(order(&neighbours), [0, 2, 1, 3]);
        assert_eq!(placed(&neighbours, Wish { threads: Some(3), ..PINNED }).cpus, [0, 2, 1]);
    }

    #[test]
    fn the_siblings_of_a_single_core_all_work() {
        let tree = Tree::new(&["0-1", "0-1", "2-3", "2-3"], &["0-3"]);
        let topology = tree.read(&[2, 3]);
        assert_eq!(placed(&topology, PLAIN).threads(), 2);
        assert_eq!(placed(&topology, Wish { reserve: 1, ..PINNED }).cpus, [2]);
    }

    #[test]
    fn a_node_is_filled_before_the_next_and_memory_follows_the_threads() {
        // Two sockets of two cores, siblings numbered after all cores, and nodes that alternate.
        let siblings = ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"];
        let tree = Tree::new(&siblings, &["0,2,4,6", "1,3,5,7"]);
        let topology = tree.read(&[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(order(&topology), [0, 2, 1, 3, 4, 6, 5, 7]);
        let all = placed(&topology, PINNED);
        assert_eq!((all.cpus.as_slice(), all.nodes()), (&[0, 2, 1, 3][..], &[0, 1][..]));
        assert_eq!(all.to_string(), "pinned to CPUs 0-3; memory interleaved over nodes 0-1");
        let one = placed(&topology, Wish { threads: Some(2), ..PINNED });
        assert_eq!((one.cpus.as_slice(), one.nodes()), (&[0, 2][..], &[][..]));
        let roaming = placed(&topology, Wish { threads: Some(2), ..PLAIN });
        assert_eq!(roaming.nodes(), [0, 1], "threads that aren't pinned may run on either");
        assert!(placed(&tree.read(&[1, 3]), PLAIN).nodes().is_empty());
    }

    #[test]
    fn faster_cores_come_first() {
        // Two fast cores with siblings, four slow ones without.
        let tree = Tree::new(&["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"], &["0-7"]);
        for cpu in 0..8 {
            let speed = if cpu < 4 { "5000000" } else { "3800000" };
            tree.write(&format!("cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq"), speed);
        }
        let topology = tree.read(&[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(order(&topology), [0, 2, 4, 5, 6, 7, 1, 3]);
        assert_eq!(placed(&topology, Wish { reserve: 2, ..PLAIN }).cpus, [0, 2, 4, 5]);
        // And where the fast ones have the greater numbers.
        let tree = Tree::new(&["0", "1", "2", "3"], &[]);
        for (cpu, capacity) in ["430", "430", "1024", "1024"].iter().enumerate() {
            tree.write(&format!("cpu/cpu{cpu}/cpu_capacity"), capacity);
        }
        assert_eq!(order(&tree.read(&[0, 1, 2, 3])), [2, 3, 0, 1]);
    }

    #[test]
    fn cpus_that_are_offline_or_not_ours_are_not_counted() {
        let tree = Tree::new(&["0", "1,3", "2", "1,3"], &["0-1,3"]);
        fs::remove_dir_all(tree.0.join("sys/devices/system/cpu/cpu2/topology")).unwrap();
        tree.write("cpu/online", "0-1,3");
        let topology = tree.read(&[0, 1, 3]);
        assert!(topology.whole && topology.known);
        assert_eq!(placed(&topology, PLAIN).threads(), 2);
        // A container's CPUs: half of one core, and another.
        let part = tree.read(&[0, 3]);
        assert!(!part.whole);
        assert_eq!(placed(&part, PINNED).cpus, [0, 3]);
        assert!(placed(&part, Wish { reserve: 1, ..PLAIN }).to_string().contains("part of the machine"));
    }

    #[test]
    fn a_system_that_tells_nothing_has_a_core_for_each_cpu() {
        let topology = Topology::read(Path::new("/nowhere"), &[1, 2, 5]);
        assert_eq!(placed(&topology, PLAIN).threads(), 3);
        assert!(placed(&topology, PLAIN).nodes().is_empty());
        assert_eq!(placed(&topology, PINNED).to_string(), "pinned to CPUs 1-2,5");
        let unsure = placed(&topology, Wish { reserve: 1, ..PLAIN });
        assert_eq!((unsure.threads(), unsure.cpu(0)), (2, None));
        let broken = Tree::new(&["0-", "x", "99999999999", "0-99999999"], &["0-3"]);
        broken.write("cpu/online", "0-3,");
        let topology = broken.read(&[0, 1, 2, 3]);
        assert_eq!(placed(&topology, PLAIN).threads(), 4);
        assert!(!topology.known && !topology.whole);
    }

    #[test]
    fn a_quota_bounds_the_threads_and_rules_out_pinning_unasked() {
        let topology = Tree::new(&["0", "1", "2", "3"], &["0-3"]).read(&[0, 1, 2, 3]);
        for (quota, threads) in [(0.2, 1), (1.5, 2), (3.0, 3), (64.0, 4)] {
            assert_eq!(placed(&topology, Wish { quota: Some(quota), ..PLAIN }).threads(), threads);
        }
        let reserved = placed(&topology, Wish { quota: Some(3.0), reserve: 1, ..PLAIN });
        assert_eq!((reserved.threads(), reserved.cpu(0)), (2, None));
        assert!(error(&topology, Wish { quota: Some(1.0), reserve: 1, ..PLAIN }).contains("none of 1 cores"));
        assert_eq!(placed(&topology, Wish { quota: Some(1.0), threads: Some(4), ..PLAIN }).threads(), 4);
    }

    #[test]
    fn threads_keep_off_reserved_cores_and_their_siblings() {
        let topology = Tree::new(&["0,2", "1,3", "0,2", "1,3"], &["0-3"]).read(&[0, 1, 2, 3]);
        let one = placed(&topology, Wish { reserve: 1, ..PLAIN });
        assert_eq!((one.threads(), one.cpus.as_slice()), (1, &[0][..]));
        assert_eq!(placed(&topology, Wish { reserve: 1, threads: Some(2), ..PINNED }).cpus, [0, 2]);
        assert!(error(&topology, Wish { reserve: 1, threads: Some(3), ..PINNED }).contains("3 threads and 2 CPUs"));
        assert!(error(&topology, Wish { reserve: 2, ..PLAIN }).contains("--reserve-cores 2"));
    }

    #[test]
    fn threads_are_pinned_unasked_only_where_nobody_else_needs_their_cpus() {
        let tree = Tree::new(&["0", "1", "2", "3"], &["0-3"]);
        let topology = tree.read(&[0, 1, 2, 3]);
        assert!(placed(&topology, PLAIN).to_string().contains("--reserve-cores"));
        assert_eq!(placed(&topology, Wish { reserve: 1, ..PLAIN }).to_string(), "pinned to CPUs 0-2");
        assert!(placed(&topology, Wish { reserve: 1, threads: Some(2), ..PLAIN }).to_string().contains("--threads"));
        assert!(placed(&topology, Wish { reserve: 1, pin: Pin::Off, ..PLAIN }).to_string().contains("off"));
        tree.write("cpu/isolated", "2-3");
        assert_eq!(placed(&tree.read(&[2, 3]), PLAIN).cpus, [2, 3]);
        assert!(placed(&tree.read(&[1, 2, 3]), PLAIN).cpus.is_empty());
    }

    #[test]
    fn more_threads_than_cpus_run_unpinned_unless_pinning_was_asked_for() {
        let topology = Tree::new(&["0", "1"], &["0-1"]).read(&[0, 1]);
        let many = placed(&topology, Wish { threads: Some(5), ..PLAIN });
        assert_eq!(many.to_string(), "not pinned: there are 5 threads and 2 CPUs");
        assert_eq!(many.threads(), 5);
        assert!(error(&topology, Wish { threads: Some(5), ..PINNED }).contains("5 threads and 2 CPUs"));
    }

    #[test]
    fn a_system_without_pinning_counts_its_cpus() {
        let topology = Topology::counted(6);
        assert_eq!(placed(&topology, Wish { reserve: 2, ..PLAIN }).threads(), 4);
        assert!(placed(&topology, PLAIN).to_string().starts_with("not pinned: this system"));
        assert!(error(&topology, PINNED).contains("this system has no way"));
    }

    #[test]
    fn a_refusal_is_told_and_fails_only_what_was_insisted_on() {
        let topology = Tree::new(&["0", "1"], &["0", "1"]).read(&[0, 1]);
        let why = std::io::Error::other("never");
        let auto = placed(&topology, Wish { reserve: 1, ..PLAIN }).refused(&why).unwrap();
        assert_eq!((auto.cpu(0), auto.to_string().as_str()), (None, "not pinned: the system refused: never"));
        assert!(placed(&topology, PINNED).refused(&why).unwrap_err().to_string().contains("CPUs 0-1: never"));
        let told = placed(&topology, PINNED).uneven(&why);
        assert_eq!(told.to_string(), "pinned to CPUs 0-1; memory not interleaved: never");
        assert!(told.nodes().is_empty());
    }
}
