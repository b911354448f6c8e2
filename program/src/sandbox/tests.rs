//! A sandbox holds for the thread that enters it, so each test has threads of its own for it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use super::*;
use std::fs;
use std::io;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::errno::Errno;

/// What `work` gives in a sandbox with `paths`, made as `sandbox = "require"` does.
fn in_sandbox<T: Send>(paths: &Paths, work: impl FnOnce() -> T + Send) -> T {
    let config = ProcessConfig { sandbox: SandboxMode::Require, ..ProcessConfig::default() };
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter(&config, paths).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

fn denied<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
}

#[test]
fn no_program_is_executed_and_the_root_not_changed() {
    in_sandbox(&Paths::default(), || {
        let refused = Command::new("/bin/true").spawn().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::EPERM as i32));
        assert_eq!(std::os::unix::fs::chroot("/").unwrap_err().raw_os_error(), Some(Errno::EPERM as i32));
        // Threads can be made, and are in the sandbox too.
        let refused = thread::spawn(|| Command::new("/bin/true").spawn().unwrap_err()).join().unwrap();
        assert_eq!(refused.raw_os_error(), Some(Errno::EPERM as i32));
    });
    assert!(Command::new("/bin/true").status().unwrap().success(), "outside nothing has changed");
}

#[test]
fn files_outside_cannot_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    let [inside, state, outside] = ["inside", "state/new", "outside"].map(|name| directory.path().join(name));
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("file"), "read").unwrap();
    fs::write(&outside, "secret").unwrap();
    let paths = Paths { read: vec![inside.clone()], write: vec![state.clone()] };
    in_sandbox(&paths, || {
        assert_eq!(fs::read_to_string(inside.join("file")).unwrap(), "read");
        assert!(denied(fs::write(inside.join("file"), "")), "what may be read is not written");
        assert!(denied(fs::read(&outside)) && denied(fs::write(&outside, "")));
        assert!(denied(fs::remove_file(&outside)) && denied(fs::read_dir(directory.path())));
        assert!(denied(fs::read("/etc/shadow")), "nor by root");
        fs::write(state.join("made"), "kept").unwrap();
        fs::rename(state.join("made"), state.join("renamed")).unwrap();
        assert_eq!(fs::read_to_string(state.join("renamed")).unwrap(), "kept");
        assert!(fs::read("/etc/resolv.conf").is_ok() && thread::available_parallelism().is_ok());
    });
}

#[test]
fn files_that_are_replaced_by_links_can_be_read() {
    // As Kubernetes does: the files are links into a directory which is a link to the current version.
    let directory = tempfile::tempdir().unwrap();
    let version = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("ca.pem"), content).unwrap();
    };
    let point_at = |name: &str| {
        let (link, next) = (directory.path().join("..data"), directory.path().join("..next"));
        std::os::unix::fs::symlink(name, &next).unwrap();
        fs::rename(next, link).unwrap();
    };
    version("..1", "one");
    point_at("..1");
    let elsewhere = tempfile::tempdir().unwrap();
    let config = elsewhere.path().join("edge.toml");
    let file = directory.path().join("ca.pem");
    std::os::unix::fs::symlink("..data/ca.pem", &file).unwrap();
    fs::write(&config, format!("[channel]\nlist = [{{ trust_roots = {file:?} }}]")).unwrap();
    let (ask, asked) = mpsc::channel();
    let (turn, turned) = mpsc::channel();
    thread::scope(|scope| {
        // Outside of the sandbox, as whoever replaces files is.
        scope.spawn(|| {
            asked.into_iter().for_each(|()| {
                version("..2", "two");
                point_at("..2");
                turn.send(()).unwrap();
            });
        });
        in_sandbox(&Paths::named_by(&config), move || {
            assert_eq!(fs::read_to_string(&file).unwrap(), "one");
            ask.send(()).unwrap();
            turned.recv().unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "two");
            assert!(denied(fs::write(&file, "")));
        });
    });
}

#[test]
fn paths_are_those_of_the_files_that_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for name in ["etc", "pki", "far"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    fs::write(root.join("pki/a.pem"), "").unwrap();
    fs::write(root.join("far/b.pem"), "").unwrap();
    std::os::unix::fs::symlink(root.join("far/b.pem"), root.join("pki/b.pem")).unwrap();
    let config = root.join("etc/edge.toml");
    fs::write(&config, "a = \"../pki/a.pem\"\nb = [\"../pki/b.pem\", \"/\", \"nothing\"]\n").unwrap();
    let mut read = Paths::named_by(&config).read;
    read.iter_mut().for_each(|path| *path = path.canonicalize().unwrap());
    read.sort();
    read.dedup();
    assert_eq!(read, ["etc", "far", "pki"].map(|name| root.join(name)));
}

#[test]
fn a_path_that_is_not_there_is_named() {
    let paths = Paths { read: vec!["/nowhere".into()], write: Vec::new() };
    let error = enter(&ProcessConfig::default(), &paths).unwrap_err().to_string();
    assert!(error.starts_with("[process] /nowhere: "), "{error}");
}

#[test]
fn an_unknown_user_is_named() {
    let error = become_user("nobody-of-this-name").unwrap_err().to_string();
    assert!(error.contains("there is no such user"), "{error}");
}
