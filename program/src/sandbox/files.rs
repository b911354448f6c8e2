//! Landlock: which files may be opened at all.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};
use nix::unistd::Uid;

use super::{InForce, SandboxError};
use crate::config;

/// Files and directories with all that is below them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// To read.
    pub read: Vec<PathBuf>,
    /// To read and write; directories, made where there are none.
    pub write: Vec<PathBuf>,
}

impl Paths {
    /// To read: the directory of the configuration file `file`, and those of all files that it names, as they are named and
    /// where symbolic links lead at the moment. Directories, since files are replaced by renaming others over them.
    ///
    /// Whatever string of the file names an existing file counts, so that no option can be forgotten here.
    pub fn named_by(file: &Path) -> Self {
        let directory = config::directory(file);
        let table = fs::read_to_string(file).ok().and_then(|text| text.parse::<toml::Table>().ok());
        let mut named = vec![file.to_owned()];
        strings(&toml::Value::Table(table.unwrap_or_default()), &mut |text| named.push(directory.join(text)));
        let files = named.into_iter().filter(|path| path.is_file());
        let read: BTreeSet<_> = files
            .flat_map(|path| [path.canonicalize().unwrap_or_else(|_| path.clone()), path])
            .map(surroundings)
            .collect();
        Self { read: read.into_iter().collect(), write: Vec::new() }
    }
}

fn strings(value: &toml::Value, found: &mut impl FnMut(&str)) {
    match value {
        toml::Value::String(text) => found(text),
        toml::Value::Array(values) => values.iter().for_each(|value| strings(value, found)),
        toml::Value::Table(table) => table.values().for_each(|value| strings(value, found)),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) | toml::Value::Datetime(_) => {}
    }
}

/// The directory of `file`; the file alone where that would be everything.
fn surroundings(file: PathBuf) -> PathBuf {
    let directory = config::directory(&file);
    if directory == Path::new("/") { file } else { directory.to_owned() }
}

/// What the C library, and the runtime, read by themselves: names of hosts and users, time zones, shared libraries, how
/// many processors there are, and randomness where a static program does not find getrandom(2).
const SYSTEM: [&str; 16] = [
    "/proc/self",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/random",
    "/dev/urandom",
    "/dev/null",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
];

/// Files of `/etc` that may be read where not all of them may.
const OF_ETC: [&str; 12] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/etc/passwd",
    "/etc/group",
    "/etc/ssl/certs",
];

/// What may be read of `/etc`: for root those files alone; for other users all that its modes let them, since files such as
/// resolv.conf are replaced by others while the program runs.
fn of_etc(uid: Uid) -> &'static [&'static str] {
    if uid.is_root() { &OF_ETC } else { &["/etc"] }
}

/// Lets the calling thread open what `paths` and the system's own needs name, and nothing else.
pub(super) fn restrict(paths: &Paths, uid: Uid) -> Result<InForce, SandboxError> {
    for path in &paths.write {
        fs::create_dir_all(path).map_err(|cause| SandboxError::Path { path: path.clone(), cause })?;
    }
    for path in &paths.read {
        fs::metadata(path).map_err(|cause| SandboxError::Path { path: path.clone(), cause })?;
    }
    let system = SYSTEM.iter().chain(of_etc(uid)).map(PathBuf::from);
    let read: Vec<_> = paths.read.iter().cloned().chain(system).collect();
    Ok(match landlock(&read, &paths.write) {
        Ok(RulesetStatus::FullyEnforced) => InForce::All,
        Ok(RulesetStatus::PartiallyEnforced) => InForce::Part,
        Ok(RulesetStatus::NotEnforced) => {
            InForce::None("this kernel has no Landlock, or it is switched off".to_owned())
        }
        Err(cause) => InForce::None(cause.to_string()),
    })
}

/// The rights that are known here. Those of later kernels are about sockets of other programs.
const KNOWN: ABI = ABI::V6;

fn landlock(read: &[PathBuf], write: &[PathBuf]) -> Result<RulesetStatus, RulesetError> {
    let reading: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing = reading | AccessFs::from_write(KNOWN);
    let special = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(read, reading))?
        .add_rules(path_beneath_rules(write, writing & !special))?
        .restrict_self()?;
    Ok(status.ruleset)
}
