//! Programs that stop, start and give up privileges while clients come: none of them may notice.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use keystead_tests::over::TellsOver;
use keystead_tests::rustls_client::{config, connect, connect_to, is_served};
use keystead_tests::stack::{Process, Signal, Stack, connect as connect_tcp, programs, wait_until};
use keystead_tests::tool;
use rustix::process::{Pid, kill_process};

/// Clients that come as fast as they are answered, until they are told to leave.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answered: AtomicUsize,
    lost: Mutex<Vec<String>>,
}

impl Load {
    fn come_to(&self, address: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            match answer(address) {
                Ok(()) => _ = self.answered.fetch_add(1, Ordering::Relaxed),
                Err(cause) => self.lost.lock().unwrap().push(cause),
            }
        }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more clients have been answered.
    fn go_on_for(&self, clients: usize) {
        let enough = self.answered() + clients;
        wait_until("clients have been answered", || self.answered() >= enough);
    }
}

/// A client that the edge answers at once, with an alert: it speaks plain HTTP. Whatever else happens is a lost connection.
fn answer(address: SocketAddr) -> Result<(), String> {
    let mut stream = connect_tcp(address).map_err(|cause| format!("connect: {cause}"))?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").map_err(|cause| format!("write: {cause}"))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|cause| format!("read: {cause}"))?;
    // An alert record of TLS.
    if bytes.first() == Some(&21) { Ok(()) } else { Err(format!("answered with {bytes:?}")) }
}

/// Has clients come to `address` while `work` is done; all of them must be answered.
fn under_load(address: SocketAddr, work: impl FnOnce(&Load)) {
    let load = Load::default();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load.come_to(address));
        }
        let _over = TellsOver(&load.stop);
        work(&load);
    });
    let lost = load.lost.into_inner().unwrap();
    assert!(lost.is_empty(), "{} of {} lost: {:?}", lost.len(), load.answered.into_inner() + lost.len(), lost.first());
}

#[test]
fn a_successor_on_the_same_address_takes_over_without_a_lost_connection() {
    let mut stack = Stack::builder().edges(2).share_address().limit("drain_timeout", "5s").start();
    let address = stack.edge().address;
    stack.edges()[1].process.signal(Signal::TERM);
    assert_eq!(stack.edges_mut()[1].process.wait().code(), Some(0));
    under_load(address, |load| {
        load.go_on_for(50);
        for round in 0..6 {
            let (old, new) = (round % 2, 1 - round % 2);
            stack.edges_mut()[new].process.restart();
            load.go_on_for(50);
            stack.edges()[old].process.signal(Signal::TERM);
            assert_eq!(stack.edges_mut()[old].process.wait().code(), Some(0), "drained");
            let log = stack.edges()[old].process.log();
            assert!(log.contains("left to other processes"), "{log}");
            load.go_on_for(50);
            assert!(is_served(&stack.edges()[new]));
        }
    });
}

#[test]
fn the_younger_of_two_leaves_the_address_to_the_elder() {
    let mut stack = Stack::builder().edges(2).share_address().limit("drain_timeout", "5s").start();
    under_load(stack.edge().address, |load| {
        for _ in 0..3 {
            load.go_on_for(50);
            stack.edges()[1].process.signal(Signal::TERM);
            assert_eq!(stack.edges_mut()[1].process.wait().code(), Some(0));
            load.go_on_for(50);
            stack.edges_mut()[1].process.restart();
        }
    });
}

/// An edge whose socket its parent keeps, as systemd does.
struct Activated(Child);

impl Activated {
    fn start(stack: &Stack, socket: &TcpListener) -> Self {
        let log =
            fs::OpenOptions::new().append(true).create(true).open(stack.directory().join("activated.log")).unwrap();
        // The shell moves the socket to where systemd would put it.
        let mut command = programs::of_this_thread("/bin/sh".as_ref());
        command.args(["-c", r#"LISTEN_PID=$$ exec "$0" "$@" 3<&0 </dev/null"#]).arg(programs::path("keystead-edge"));
        command.args(["serve", "--config"]).arg(stack.directory().join("edge-one/edge.toml"));
        command.envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "https")]);
        command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
        Self(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(self.0.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        wait_until("the edge has drained", || self.0.try_wait().unwrap().is_some());
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        // Fails for one that has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_socket_that_is_handed_over_outlives_restarts_under_load() {
    let mut stack = Stack::start();
    let address = stack.edge().address;
    stack.edge().process.signal(Signal::TERM);
    assert_eq!(stack.edge_mut().process.wait().code(), Some(0));
    let socket = TcpListener::bind(address).unwrap();
    let mut edge = Activated::start(&stack, &socket);
    under_load(address, |load| {
        for _ in 0..4 {
            load.go_on_for(50);
            edge.stop();
            edge = Activated::start(&stack, &socket);
        }
        load.go_on_for(50);
        assert!(is_served(stack.edge()));
        edge.stop();
        // Those that come now wait for the next one.
        edge = Activated::start(&stack, &socket);
        load.go_on_for(50);
    });
    edge.stop();
    let log = fs::read_to_string(stack.directory().join("activated.log")).unwrap();
    assert!(log.contains("listening socket inherited"), "{log}");
}

#[test]
fn a_socket_that_no_listener_wants_keeps_the_edge_from_starting() {
    let mut stack = Stack::start();
    stack.edge().process.signal(Signal::TERM);
    assert_eq!(stack.edge_mut().process.wait().code(), Some(0));
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut edge = Activated::start(&stack, &other);
    wait_until("it has ended", || edge.0.try_wait().unwrap().is_some());
    assert_eq!(edge.0.wait().unwrap().code(), Some(1));
    let log = fs::read_to_string(stack.directory().join("activated.log")).unwrap();
    assert!(log.contains("which the configuration does not name"), "{log}");
}

#[test]
fn readiness_ends_before_connections_are_refused() {
    let stack = Stack::builder().limit("drain_delay", "3s").start();
    stack.edge().process.signal(Signal::TERM);
    wait_until("it says that it drains", || stack.edge().process.get("/readyz").0 == 503);
    assert!(is_served(stack.edge()), "it still accepts");
    wait_until("it accepts nobody", || TcpStream::connect(stack.edge().address).is_err());
}

#[test]
fn an_address_beyond_its_connections_is_refused_and_comes_back() {
    let stack = Stack::builder().limit("max_connections_per_address", "2").start();
    let (first, _second) = (connect(stack.edge(), config()).unwrap(), connect(stack.edge(), config()).unwrap());
    assert!(connect(stack.edge(), config()).is_err());
    let refused =
        || stack.edge().metric("keystead_edge_connections_refused_total", &[("reason", "max_connections_per_address")]);
    assert_eq!(refused(), 1);
    drop(first);
    wait_until("its place is free", || is_served(stack.edge()));
}

/// What the kernel says of each thread of the program.
fn threads_in_sandbox(process: &Process) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap_or_default();
    let statuses: Vec<_> = tasks.map(|task| status(task.unwrap())).filter(|status| !status.is_empty()).collect();
    statuses.len() > 2
        && statuses.iter().all(|status| status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"))
}

#[test]
fn the_programs_do_their_whole_job_in_a_sandbox_that_is_required() {
    let mut stack = Stack::builder().tickets("2s").start();
    let require = |text: &str| text.replace("[metrics]", "[process]\nsandbox = \"require\"\n[metrics]");
    stack.edit("keyserver/keyserver.toml", require);
    stack.edit("edge-one/edge.toml", require);
    stack.key_server().restart();
    stack.edge_mut().process.restart();
    stack.edge().wait_for_ticket_keys();
    assert!(threads_in_sandbox(&stack.edge().process));
    assert!(threads_in_sandbox(stack.key_server()));
    assert!(stack.edge().process.log().contains("sandbox in force"));
    assert!(is_served(stack.edge()));

    // Both write: the ticket secret's next generation, and sessions.
    let state = stack.directory().join("keyserver/tickets.toml");
    let before = fs::read(&state).unwrap();
    wait_until("the ticket secret has been replaced", || fs::read(&state).is_ok_and(|now| now != before));
    assert_eq!(stack.key_server().metric("keystead_keyserver_ticket_state_write_failures_total", &[]), 0);
    assert!(stack.directory().join("edge-one/state/sessions").exists());

    // And read what changes: the configuration, and files that it names.
    fs::copy(stack.directory().join("keyserver/localhost-p256.pem"), stack.directory().join("edge-one/late.pem"))
        .unwrap();
    stack.edit("edge-one/edge.toml", |text| text.replace("default = true", "default = false"));
    wait_until("the edge has loaded it", || {
        stack.edge().metric("keystead_edge_reloads_total", &[("outcome", "applied")]) == 1
    });
    assert!(connect_to(stack.edge(), config(), "other.example").is_err());
    stack.edit("keyserver/keyserver.toml", |text| text.replace("[[edge]]", "# changed\n[[edge]]"));
    wait_until("the key server has loaded it", || {
        stack.key_server().metric("keystead_keyserver_reloads_total", &[("outcome", "applied")]) == 1
    });
    assert!(is_served(stack.edge()));
}

#[test]
fn an_edge_is_revoked_where_the_sealing_key_is_a_credential() {
    let mut stack = Stack::start();
    let credentials = stack.directory().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("sealing-key"), "5a".repeat(32)).unwrap();
    stack.edit("keyserver/keyserver.toml", |text| {
        let tables =
            "[key_protection]\nsealing_key = { credential = \"sealing-key\" }\n[process]\nsandbox = \"require\"";
        text.replace("[metrics]", &format!("{tables}\n[metrics]"))
    });
    stack.key_server().set_environment("CREDENTIALS_DIRECTORY", &credentials);
    stack.key_server().restart();
    stack.edit("keyserver/keyserver.toml", |text| text.replace("[[edge]]", "[[edge]]\nrevoked = true"));
    wait_until("it is applied", || {
        stack.key_server().metric("keystead_keyserver_reloads_total", &[("outcome", "applied")]) == 1
    });
    assert_eq!(stack.key_server().metric("keystead_keyserver_reloads_total", &[("outcome", "refused")]), 0);
}

#[test]
fn root_is_given_up_for_the_user_that_is_configured() {
    if !rustix::process::geteuid().is_root() {
        tool::skipped("only root can become another user");
        return;
    }
    let mut stack = Stack::start();
    let owned = |directory: &str| {
        let done = Command::new("chown").args(["-R", "nobody"]).arg(stack.directory().join(directory)).status();
        assert!(done.unwrap().success());
    };
    // Directories of tests are their owner's alone.
    fs::set_permissions(stack.directory(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (directory, file) in [("keyserver", "keyserver/keyserver.toml"), ("edge-one", "edge-one/edge.toml")] {
        stack.edit(file, |text| {
            text.replace("[metrics]", "[process]\nuser = \"nobody\"\nsandbox = \"require\"\n[metrics]")
        });
        owned(directory);
    }
    stack.key_server().restart();
    stack.edge_mut().process.restart();
    // Others of that user may not look into it: what is below /proc then belongs to root.
    let memory = fs::metadata(format!("/proc/{}/mem", stack.key_server().pid())).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&memory), 0);
    let uids = |process: &Process| {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
        let line = |name| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        (line("Uid:"), line("CapEff:"))
    };
    for (uid, capabilities) in [uids(&stack.edge().process), uids(stack.key_server())] {
        assert!(uid.split_whitespace().skip(1).all(|id| id == "65534"), "{uid}");
        assert!(capabilities.ends_with("0000000000000000"), "{capabilities}");
    }
    assert!(is_served(stack.edge()));
}
