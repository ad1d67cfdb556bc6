//! How many sockets this process may have.

use std::io;

/// Raise the limit on open files as far as this process may by itself; what it is then. `None` where it can't be told.
pub fn raise_open_files() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return None;
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        // SAFETY: `raised` is valid for reading.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
            limit = raised;
        }
    }
    Some(limit.rlim_cur)
}

/// No more files can be opened, by this process or on this machine.
pub fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// What a failed connection means, and what to do where that lies with this machine.
pub fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            format!("{error}: this process may not have more open files; raise `ulimit -n`, or offer less at once")
        }
        Some(libc::EADDRNOTAVAIL) => {
            format!("{error}: this machine has no free port left for another connection; keep connections alive")
        }
        _ => error.to_string(),
    }
}
