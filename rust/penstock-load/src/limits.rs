//! How many sockets this process may have.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

const ROOM: libc::c_int = 32_768; // connections from one address to one port, of which there are some 28,000

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

/// The highest number that a connection's file may have: a few are left to the rest of the process, which otherwise
/// couldn't even tell what is wrong.
pub fn highest_file(open_files: Option<u64>) -> RawFd {
    const LEFT: u64 = 32;
    open_files.map_or(RawFd::MAX, |limit| (limit - LEFT.min(limit / 4)).min(RawFd::MAX as u64) as RawFd)
}

/// Have the table of this process's files made for as many as one load may need, now. It grows by doubling, and in a
/// process of several threads Linux then waits until every processor has passed through the scheduler (`expand_fdtable`,
/// `synchronize_rcu`), which would keep the connection that needs it, and all behind, for 10 ms.
///
/// Call it after [`raise_open_files`], with any open file.
pub fn make_room(file: &impl AsRawFd, open_files: Option<u64>) {
    let last = open_files.map_or(ROOM, |limit| limit.min(ROOM as u64) as libc::c_int) - 1;
    // SAFETY: plain system calls. A refused one changes nothing; the copy is nobody else's to close.
    unsafe {
        let copy = libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, last);
        if copy >= 0 {
            libc::close(copy);
        }
    }
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
