//! What the system lets a thread say about the CPUs it runs on and the nodes its memory comes from. Linux alone has
//! it; elsewhere every call here is an error of the kind `Unsupported`.

use std::fmt;
use std::io::{Error, Result};
use std::marker::PhantomData;

/// CPUs, and nodes, that a [`Set`] has room for: as many as Linux is ever built for.
pub const MAX: usize = 8192;

/// Numbers of CPUs or nodes, as the kernel takes them.
#[derive(Clone, PartialEq, Eq)]
pub struct Set([u64; MAX / 64]);

impl Set {
    /// The set of these numbers.
    ///
    /// # Panics
    /// If one isn't below [`MAX`].
    pub fn of(numbers: &[usize]) -> Set {
        let mut set = Set([0; MAX / 64]);
        for &number in numbers {
            set.0[number / 64] |= 1 << (number % 64);
        }
        set
    }

    /// Its numbers, ascending.
    pub fn numbers(&self) -> Vec<usize> {
        (0..MAX).filter(|number| self.0[number / 64] >> (number % 64) & 1 == 1).collect()
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.numbers()).finish()
    }
}

/// The CPUs that this thread may run on.
pub fn allowed() -> Result<Set> {
    system::allowed()
}

/// Let this thread, and those it starts from here on, run on these CPUs only.
pub fn run_on(cpus: &Set) -> Result<()> {
    system::run_on(cpus)
}

/// Whether this thread's memory could be interleaved over these nodes: an error if the process was started with a
/// policy of its own (by `numactl`, say), which it knows better, or if the system refuses, as containers may.
pub fn may_interleave(nodes: &Set) -> Result<()> {
    if !system::has_default_policy()? {
        return Err(Error::other("the process was started with a memory policy of its own"));
    }
    system::interleave(Some(nodes))?;
    system::interleave(None)
}

/// As long as it lives, the thread that took it runs on one CPU, and its new pages come from the nodes in turn.
pub struct Seat {
    before: Option<Set>,
    interleaved: bool,
    of_this_thread: PhantomData<*const ()>,
}

impl Seat {
    /// Take a seat: on the CPU, if there is one, and with pages from the nodes, if there are any. Threads started
    /// meanwhile inherit both.
    pub fn take(cpu: Option<usize>, nodes: &[usize]) -> Result<Seat> {
        let mut seat = Seat { before: None, interleaved: false, of_this_thread: PhantomData };
        if let Some(cpu) = cpu {
            let before = allowed()?;
            run_on(&Set::of(&[cpu]))?;
            seat.before = Some(before);
        }
        if !nodes.is_empty() {
            system::interleave(Some(&Set::of(nodes)))?;
            seat.interleaved = true;
        }
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Refused only if the CPUs of before are all gone by now; then the kernel has chosen others by itself.
        let _ = self.before.take().map(|before| run_on(&before));
        if self.interleaved {
            // The default is never refused where another policy was not.
            let _ = system::interleave(None);
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use super::{MAX, Set};
    use std::io::{Error, Result};
    use std::ptr::null;

    fn checked(result: libc::c_long) -> Result<()> {
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    pub fn allowed() -> Result<Set> {
        let mut set = Set::of(&[]);
        // SAFETY: the kernel writes at most the given bytes; 0 is the calling thread.
        let result = unsafe { libc::sched_getaffinity(0, size_of::<Set>(), (&raw mut set.0).cast()) };
        checked(result.into()).map(|()| set)
    }

    pub fn run_on(cpus: &Set) -> Result<()> {
        // SAFETY: the kernel reads the given bytes.
        checked(unsafe { libc::sched_setaffinity(0, size_of::<Set>(), (&raw const cpus.0).cast()) }.into())
    }

    pub fn has_default_policy() -> Result<bool> {
        let mut mode: libc::c_int = 0;
        let none = null::<libc::c_ulong>();
        // SAFETY: without an address and flags the kernel writes the calling thread's mode only.
        checked(unsafe { libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, none, 0usize, none, 0usize) })?;
        Ok(mode == libc::MPOL_DEFAULT)
    }

    pub fn interleave(nodes: Option<&Set>) -> Result<()> {
        let (mode, mask, bits) = match nodes {
            Some(nodes) => (libc::MPOL_INTERLEAVE, nodes.0.as_ptr(), MAX),
            None => (libc::MPOL_DEFAULT, null(), 0),
        };
        // SAFETY: the kernel reads that many bits.
        checked(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) })
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::Set;
    use std::io::{ErrorKind, Result};

    pub fn allowed() -> Result<Set> {
        Err(ErrorKind::Unsupported.into())
    }

    pub fn run_on(_: &Set) -> Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    pub fn has_default_policy() -> Result<bool> {
        Err(ErrorKind::Unsupported.into())
    }

    pub fn interleave(_: Option<&Set>) -> Result<()> {
        Err(ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_it_was_given() {
        assert_eq!(Set::of(&[70, 0, 63, MAX - 1]).numbers(), [0, 63, 70, MAX - 1]);
    }

    #[test]
    fn a_seat_is_one_cpu_and_leaving_it_brings_back_the_others() {
        let before = allowed().unwrap();
        for cpu in before.numbers() {
            let seat = Seat::take(Some(cpu), &[]).unwrap();
            assert_eq!(allowed().unwrap().numbers(), [cpu]);
            drop(seat);
            assert_eq!(allowed().unwrap(), before);
        }
        assert!(Seat::take(Some(MAX - 1), &[]).is_err());
        assert_eq!(allowed().unwrap(), before);
    }

    #[test]
    fn pages_come_from_the_nodes_as_long_as_the_seat_is_held() {
        let nodes = Set::of(&[0]);
        if let Err(refused) = may_interleave(&nodes) {
            eprintln!("skipped: {refused}");
            return;
        }
        assert!(system::has_default_policy().unwrap());
        let seat = Seat::take(None, &[0]).unwrap();
        assert!(!system::has_default_policy().unwrap());
        assert!(may_interleave(&nodes).is_err(), "a policy that is there already is left alone");
        assert!(!system::has_default_policy().unwrap());
        drop(seat);
        assert!(system::has_default_policy().unwrap());
        assert!(may_interleave(&Set::of(&[MAX - 1])).is_err());
        assert!(system::has_default_policy().unwrap());
    }
}
