//! The stack as its user meets it: started, tried with curl, ended in each of the ways it can end.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// One stack at a time: the free ports of one must not be found free by another.
static TURN: Mutex<()> = Mutex::new(());

struct Stack {
    directory: TempDir,
    process: Child,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
    _turn: MutexGuard<'static, ()>,
}

/// A free port, and the two behind it, of which a second edge takes one. They are below those that Linux gives to whoever
/// connects (`ip_local_port_range` begins at 32768): nobody is given one of them before the stack takes it.
fn free_port() -> [TcpListener; 3] {
    loop {
        let any = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let first = 10_000 + any % 7_000 * 3;
        let bind = |port| TcpListener::bind(("127.0.0.1", port));
        if let (Ok(first), Ok(second), Ok(third)) = (bind(first), bind(first + 1), bind(first + 2)) {
            return [first, second, third];
        }
    }
}

impl Stack {
    /// Starts a stack on free ports and waits until it says that it is ready.
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, |_| {})
    }

    fn start_with(arguments: &[&str], adjust: impl FnOnce(&mut Command)) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        // Held together, so that no two are the same.
        let held: Vec<_> = (0..6).map(|_| free_port()).collect();
        let ports: Vec<_> = held.iter().map(|[first, ..]| first.local_addr().unwrap().port().to_string()).collect();
        drop(held);
        let names = ["TLS", "EDGE_METRICS", "KEY_SERVER", "KEY_SERVER_METRICS", "BACKEND", "SHARED_STORE"];
        let mut command = command();
        for (name, port) in names.iter().zip(&ports) {
            command.env(format!("KEYSTEAD_LOCAL_{name}_PORT"), port);
        }
        command.env("KEYSTEAD_LOCAL_DIR", directory.path()).args(arguments);
        adjust(&mut command);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let stderr = process.stderr.take().unwrap();
        Self { directory, process, stdout, stderr, _turn: turn }
    }

    /// The next `curl` line that the stack prints once it is ready.
    fn curl_line(&mut self) -> String {
        self.line("curl ")
    }

    /// The next line of those printed that begins so.
    fn line(&mut self, begin: &str) -> String {
        let mut lines = self.stdout.by_ref().lines().map(Result::unwrap);
        let Some(line) = lines.find(|line| line.trim_start().starts_with(begin)) else {
            let mut errors = String::new();
            self.stderr.read_to_string(&mut errors).unwrap();
            panic!("the stack printed no {begin}: {errors}");
        };
        line
    }

    /// The process of each program, by the line that names them.
    fn processes(&mut self) -> Vec<(String, Pid)> {
        let line = self.line("processes ");
        let named = line.trim_start().trim_start_matches("processes").split(',').map(str::trim);
        named.map(|one| one.split_once(' ').map(|(name, id)| (name.to_owned(), pid(id))).unwrap()).collect()
    }

    /// Reads standard error up to the line that holds `expected`.
    fn until_told(&mut self, expected: &str) -> String {
        let mut told = Vec::new();
        while !String::from_utf8_lossy(&told).lines().any(|line| line.contains(expected)) || !told.ends_with(b"\n") {
            let mut byte = [0];
            let read = self.stderr.read(&mut byte).unwrap();
            assert_ne!(read, 0, "no {expected} in {}", String::from_utf8_lossy(&told));
            told.extend(byte);
        }
        String::from_utf8(told).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// The exit code, and what was written to standard error but for what cargo wrote when it built the programs.
    fn end(mut self) -> (Option<i32>, String) {
        let mut errors = String::new();
        self.stderr.read_to_string(&mut errors).unwrap();
        let begin = errors.find("error:").unwrap_or(errors.len());
        (self.process.wait().unwrap().code(), errors.split_off(begin))
    }

    /// The processes of the programs.
    fn children(&self) -> Vec<Pid> {
        let id = self.process.id();
        let listed = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        listed.split_whitespace().map(pid).collect()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // Already gone where the test went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program that cargo built, or the one in the directory that `KEYSTEAD_PROGRAMS` names.
fn command() -> Command {
    let Some(directory) = std::env::var_os("KEYSTEAD_PROGRAMS") else {
        return Command::new(env!("CARGO_BIN_EXE_keystead-local"));
    };
    let mut command = Command::new(Path::new(&directory).join("keystead-local"));
    // Outside cargo nothing is built: the programs beside this one are taken as they are.
    command.env_remove("CARGO");
    command
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

fn shell(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_printed_line_works_and_sigterm_drains() {
    let mut stack = Stack::start(&[]);
    let line = stack.curl_line();
    let page = shell(&format!("{line} --silent --show-error"));
    assert!(page.contains("tls-version: TLSv1.2\n"), "{page}");
    assert!(page.contains("authority: localhost\n"), "{page}");
    stack.signal(Signal::TERM);
    assert_eq!(stack.end(), (Some(0), String::new()));
}

#[test]
fn the_lines_for_mutual_authentication_and_key_transport_work() {
    let mut stack = Stack::start(&[]);
    stack.curl_line();
    let mutual = stack.curl_line();
    let page = shell(&format!("{mutual} --silent --show-error"));
    assert!(page.contains("tls: yes, verified client certificate\n"), "{page}");
    assert!(page.contains("client-common-name: developer.keystead.local\n"), "{page}");
    assert!(page.contains("client-name: DNSName(developer.keystead.local)\n"), "{page}");
    assert!(page.contains("authority: mutual.localhost\n"), "{page}");
    let without = mutual.split_once(" --cert ").unwrap().0;
    let address = mutual.rsplit_once(' ').unwrap().1;
    let refused = Command::new("sh").args(["-c", &format!("{without} --silent {address}")]).output().unwrap();
    assert!(!refused.status.success());

    let legacy = stack.curl_line();
    let page = shell(&format!("{legacy} --silent --show-error"));
    assert!(page.contains("tls-cipher: AES128-GCM-SHA256\n"), "{page}");
    assert!(page.contains("authority: legacy.localhost\n"), "{page}");
    // Nobody else's name is served so.
    let other = legacy.replace("legacy.", "");
    assert!(!Command::new("sh").args(["-c", &format!("{other} --silent")]).status().unwrap().success());
    stack.signal(Signal::TERM);
    assert_eq!(stack.end(), (Some(0), String::new()));
}

#[test]
fn certificates_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut authority = None;
    for _ in 0..2 {
        let mut stack = Stack::start(&["--dir", directory.path().to_str().unwrap()]);
        stack.curl_line();
        let pem = std::fs::read(directory.path().join("pki/ca.pem")).unwrap();
        assert_eq!(*authority.get_or_insert_with(|| pem.clone()), pem);
        stack.signal(Signal::INT);
        assert_eq!(stack.end(), (Some(0), String::new()));
    }
}

/// Sessions that begin before edges have ticket keys and reach their store, which is a moment after they serve, do not
/// resume, nor do those that the store has not got yet.
fn begin_and_resume(begin: &str, resume: &str) {
    wait_until(resume, || {
        assert!(shell(begin).starts_with("New, TLSv1.2"), "{begin}");
        shell(resume).starts_with("Reused, TLSv1.2")
    });
}

#[test]
fn each_of_two_edges_serves() {
    let mut stack = Stack::start(&["--edges", "2"]);
    for _ in 0..2 {
        let line = stack.curl_line();
        assert!(shell(&format!("{line} --silent --show-error")).contains("tls-version: TLSv1.2\n"));
    }
    stack.signal(Signal::TERM);
    assert_eq!(stack.end(), (Some(0), String::new()));
}

#[test]
fn the_printed_lines_resume_at_the_other_edge_by_ticket_and_by_id() {
    let mut stack = Stack::start(&["--edges", "2"]);
    let store = stack.line("store ");
    assert!(store.contains("-server), where edges share sessions by id"), "{store}");
    for _ in ["by ticket", "by id"] {
        begin_and_resume(&stack.line("openssl "), &stack.line("openssl "));
    }
    stack.signal(Signal::TERM);
    assert_eq!(stack.end(), (Some(0), String::new()));
}

#[test]
fn sessions_resume_at_an_edge_that_was_killed_and_without_a_key_server() {
    let mut stack = Stack::start(&["--edges", "2"]);
    let processes = stack.processes();
    let process = |of: &str| processes.iter().find(|(name, _)| name == of).unwrap().1;
    let curl = format!("{} --silent", stack.curl_line());
    let lines: Vec<_> = (0..2).map(|_| (stack.line("openssl "), stack.line("openssl "))).collect();
    for (begin, resume) in &lines {
        begin_and_resume(begin, resume);
    }
    kill_process(process("edge-two"), Signal::KILL).unwrap();
    stack.until_told("edge-two was killed");
    for (_, resume) in &lines {
        // It has its ticket keys a moment after it serves.
        wait_until(resume, || {
            let output = Command::new("sh").args(["-c", resume]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).starts_with("Reused, ")
        });
    }

    kill_process(process("keyserver"), Signal::TERM).unwrap();
    stack.until_told("serve --config ");
    for (_, resume) in &lines {
        assert!((0..10).all(|_| shell(resume).starts_with("Reused, ")), "{resume}");
    }
    let begin = Instant::now();
    assert!(!Command::new("sh").args(["-c", &curl]).status().unwrap().success());
    assert!(begin.elapsed() < Duration::from_secs(5), "a full handshake failed late");
    let log = std::fs::read_to_string(stack.directory.path().join("log/edge-one.log")).unwrap();
    assert!(log.contains("unreachable"), "{log}");
    stack.signal(Signal::TERM);
    assert_eq!(stack.end(), (Some(0), String::new()));
}

#[test]
fn edges_without_a_store_serve_and_say_what_is_missing() {
    let serves = |mut stack: Stack, says: &str| {
        let store = stack.line("store ");
        assert!(store.contains(says), "{store}");
        assert!(shell(&format!("{} --silent --show-error", stack.curl_line())).contains("tls-version: TLSv1.2\n"));
        stack.signal(Signal::TERM);
        assert_eq!(stack.end(), (Some(0), String::new()));
    };
    // Nothing listens there.
    serves(Stack::start(&["--edges", "2", "--shared-store", "127.0.0.1:1"]), " 127.0.0.1:1, ");
    // Cargo needs a path; what the start above has built is good enough.
    let nothing_installed = |command: &mut Command| {
        command.env("PATH", "/nowhere").env_remove("CARGO");
    };
    serves(Stack::start_with(&["--edges", "2"], nothing_installed), "none: ");
}

#[test]
fn a_program_that_is_killed_runs_again_at_once() {
    let mut stack = Stack::start(&[]);
    let processes = stack.processes();
    assert_eq!(processes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["keyserver", "edge-one"]);
    let line = stack.curl_line();
    for (name, id) in processes.into_iter().rev() {
        kill_process(id, Signal::KILL).unwrap();
        let killed = Instant::now();
        let told =
            stack.until_told(&format!("{name} was killed (signal: 9 (SIGKILL)) and is started again as process "));
        assert!(killed.elapsed() < PATIENCE / 4, "{told}");
        assert_eq!(stack.children().len(), 2);
        wait_until("the page", || {
            Command::new("sh").args(["-c", &format!("{line} --silent")]).output().unwrap().status.success()
        });
    }
    stack.signal(Signal::TERM);
    assert_eq!(stack.end(), (Some(0), String::new()));
}

#[test]
fn a_program_that_is_stopped_stays_down_until_the_printed_line_starts_it() {
    let mut stack = Stack::start(&[]);
    let key_server = stack.processes().remove(0).1;
    let line = format!("{} --silent", stack.curl_line());
    let serves = || Command::new("sh").args(["-c", &line]).output().unwrap().status.success();
    kill_process(key_server, Signal::TERM).unwrap();
    let told = stack.until_told("serve --config ");
    assert!(told.contains("keyserver was stopped and stays down; to start it again:\n"), "{told}");
    wait_until("its end", || !serves());
    assert_eq!(stack.children().len(), 1);

    let again = format!("exec {}", told.lines().last().unwrap().trim());
    let log = stack.directory.path().join("again.log");
    let log = std::fs::File::create(log).unwrap();
    let mut again = Command::new("sh").args(["-c", &again]).stdout(log).spawn().unwrap();
    wait_until("the page", serves);
    kill_process(Pid::from_child(&again), Signal::TERM).unwrap();
    assert!(again.wait().unwrap().success());
    stack.signal(Signal::TERM);
    assert_eq!(stack.end(), (Some(0), String::new()));
}

#[test]
fn a_program_that_is_killed_again_and_again_ends_everything_and_is_named() {
    let mut stack = Stack::start(&[]);
    let mut key_server = stack.processes().remove(0).1;
    let children = stack.children();
    for _ in 0..5 {
        kill_process(key_server, Signal::KILL).unwrap();
        let told = stack.until_told("keyserver was killed");
        key_server = pid(told.trim_end().rsplit_once(' ').unwrap().1);
    }
    kill_process(key_server, Signal::KILL).unwrap();
    let log = stack.directory.path().join("log/keyserver.log");
    let (code, errors) = stack.end();
    assert_eq!(code, Some(1));
    assert!(errors.starts_with("error: keyserver ended"), "{errors}");
    assert!(errors.contains(log.to_str().unwrap()), "{errors}");
    assert!(children.iter().all(|child| test_kill_process(*child).is_err()), "a program was left behind");
    assert!(test_kill_process(key_server).is_err(), "the key server was left behind");
}

#[test]
fn a_program_that_fails_ends_everything_and_is_named() {
    let mut stack = Stack::start(&[]);
    let (_, edge) = stack.processes().remove(1);
    // What is killed comes back with this configuration, and does not start with it.
    let configuration = stack.directory.path().join("edge-one/edge.toml");
    std::fs::write(&configuration, "nonsense = true\n").unwrap();
    kill_process(edge, Signal::KILL).unwrap();
    let (code, errors) = stack.end();
    assert_eq!(code, Some(1));
    assert!(errors.starts_with("error: edge-one ended (exit status: 64)"), "{errors}");
    assert!(errors.contains("nonsense"), "{errors}");
}

#[test]
#[cfg(target_os = "linux")]
fn programs_end_when_the_stack_is_killed() {
    let mut stack = Stack::start(&[]);
    // One that was started again too.
    kill_process(stack.processes().remove(0).1, Signal::KILL).unwrap();
    stack.until_told("keyserver was killed");
    let children = stack.children();
    assert_eq!(children.len(), 2);
    wait_until("the key server to ask for its end", || children.iter().all(|child| is_program(*child)));
    stack.signal(Signal::KILL);
    stack.process.wait().unwrap();
    wait_until("the programs to end", || children.iter().all(|child| !runs(*child)));
}

/// A process that has ended stays listed where nobody collects orphans, as in some containers.
fn runs(pid: Pid) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}

/// Whether it has become the program, after which the kernel knows to end it with its parent.
fn is_program(pid: Pid) -> bool {
    let name = std::fs::read_link(Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("exe"));
    name.is_ok_and(|path| path.file_name().is_some_and(|name| name != "keystead-local"))
}
