//! seccomp: which system calls may be made at all.
//!
//! A list of what is refused, rather than of what is allowed: a C library or kernel that does the same work by another call
//! goes on working.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use nix::errno::Errno;
use nix::libc;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use super::InForce;

/// Calls that neither program makes, and that help whoever has taken one over.
const REFUSED: &[i64] = &[
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts, roots and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Files past their directories.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_mknodat,
    libc::SYS_fanotify_init,
    // Parts of the kernel in which many of its faults were.
    libc::SYS_bpf,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_personality,
    // The machine as a whole.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
];

#[cfg(target_arch = "x86_64")]
mod of_architecture {
    use nix::libc;

    pub(super) const REFUSED: &[i64] = &[
        libc::SYS_iopl,
        libc::SYS_ioperm,
        libc::SYS_modify_ldt,
        libc::SYS_mknod,
        libc::SYS_uselib,
        libc::SYS_ustat,
        libc::SYS_sysfs,
        libc::SYS__sysctl,
    ];

    /// The same kernel may know the calls of x32 too, under these numbers or further ones (asm/unistd_x32.h).
    pub(super) fn aliases(numbers: impl Iterator<Item = i64>) -> impl Iterator<Item = i64> {
        numbers.flat_map(|number| [number, number | X32]).chain((512..=547).map(|number| number | X32))
    }

    const X32: i64 = 0x4000_0000;
}

#[cfg(not(target_arch = "x86_64"))]
mod of_architecture {
    pub(super) const REFUSED: &[i64] = &[];

    pub(super) fn aliases(numbers: impl Iterator<Item = i64>) -> impl Iterator<Item = i64> {
        numbers
    }
}

/// Flags of clone(2) that make namespaces; threads have none of them.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// Has those calls fail with EPERM for the calling thread.
pub(super) fn restrict() -> InForce {
    let done = filters().and_then(|filters| filters.iter().try_for_each(|filter| apply_filter(filter)));
    done.map_or_else(|cause| InForce::None(cause.to_string()), |()| InForce::All)
}

fn filters() -> Result<[BpfProgram; 2], Error> {
    let refused = REFUSED.iter().chain(of_architecture::REFUSED).copied();
    let mut rules: BTreeMap<_, _> = of_architecture::aliases(refused).map(|number| (number, Vec::new())).collect();
    rules.insert(libc::SYS_clone, namespace_flags()?);
    // Its flags are in memory, where a filter sees nothing. Without it the C library makes threads by clone.
    let unseen = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([filter(rules, Errno::EPERM)?, filter(unseen, Errno::ENOSYS)?])
}

/// One rule for each flag: any of them is enough.
fn namespace_flags() -> Result<Vec<SeccompRule>, Error> {
    let flags = (0..i32::BITS).map(|bit| 1_u64 << bit).filter(|flag| flag & u64::from(NAMESPACES.cast_unsigned()) != 0);
    let rule = |flag| {
        let is_set = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
        Ok(SeccompRule::new(vec![is_set])?)
    };
    flags.map(rule).collect()
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, answer: Errno) -> Result<BpfProgram, Error> {
    let answer = SeccompAction::Errno((answer as i32).cast_unsigned());
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, answer, ARCH.try_into()?)?.try_into()?)
}
