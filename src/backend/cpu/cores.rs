//! How many threads a CPU is worth: one a physical core.
//!
//! Two threads of one core share its vector units, which one alone keeps busy, and its first caches.

use std::collections::BTreeSet;
use std::path::Path;

/// Physical cores that this process may use, at least one; fewer where the system grants it less time than that. Where the
/// system does not tell cores from their threads (other systems than Linux), the threads.
pub fn cores() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let allowed = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| allowed(&status));
    let cores = allowed.and_then(|cpus| physical(Path::new("/sys/devices/system/cpu"), &cpus));
    cores.map_or(threads, |cores| cores.clamp(1, threads))
}

/// The CPUs in `/proc/self/status` on which the process may run.
fn allowed(status: &str) -> Option<Vec<usize>> {
    list(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
}

/// Different cores among these CPUs: those of one core have the same siblings.
fn physical(cpus: &Path, allowed: &[usize]) -> Option<usize> {
    let siblings =
        |cpu: &usize| std::fs::read_to_string(cpus.join(format!("cpu{cpu}/topology/thread_siblings_list")));
    let cores: BTreeSet<Vec<usize>> =
        allowed.iter().map(|cpu| list(&siblings(cpu).ok()?)).collect::<Option<_>>()?;
    Some(cores.len())
}

/// The numbers of `0-3,8`, at most 65536.
fn list(text: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= 1 << 16 {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(list("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(list("5"), Some(vec![5]));
        for bad in ["", "a", "3-1", "0-", "-1", "0-99999999999"] {
            assert_eq!(list(bad), None, "{bad}");
        }
        assert_eq!(allowed("Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-1,4\n"), Some(vec![0, 1, 4]));
        assert_eq!(allowed("Name:\tx\n"), None);
    }

    #[test]
    fn threads_of_one_core_count_once() {
        let folder = tempfile::tempdir().unwrap();
        // Two cores of two threads, and one of one.
        for (cpu, siblings) in [(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3"), (4, "4")] {
            let topology = folder.path().join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("thread_siblings_list"), format!("{siblings}\n")).unwrap();
        }
        for (allowed, cores) in
            [(&[0, 1, 2, 3, 4][..], Some(3)), (&[0, 2], Some(1)), (&[2, 3], Some(2)), (&[4, 5], None)]
        {
            assert_eq!(physical(folder.path(), allowed), cores, "{allowed:?}");
        }
    }

    #[test]
    fn this_machine_has_some() {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        assert!((1..=threads).contains(&cores()));
    }
}
