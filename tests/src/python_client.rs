//! Python as a client that comes back. Its OpenSSL keeps the ticket of every handshake; `openssl s_client` keeps only those
//! of full ones.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::returning::{Returning, Visit};
use crate::stack::{Edge, Stack};

/// Visits every address that it reads, with one session from the first to the last. Answers with whether it came back, the
/// number of bytes to follow, and these: the page, or why there is none.
const SCRIPT: &str = r#"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
context.maximum_version = ssl.TLSVersion.TLSv1_2
if sys.argv[2] == "ids":
    context.options |= ssl.OP_NO_TICKET
session = None
for line in sys.stdin:
    host, address, port = line.split()
    said, page = "failed", b""
    try:
        with socket.create_connection((address, int(port)), 20) as plain:
            with context.wrap_socket(plain, server_hostname=host, session=session) as tls:
                tls.sendall(b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n")
                while part := tls.recv(4096):
                    page += part
                said, session = ("resumed" if tls.session_reused else "full"), tls.session
    except OSError as error:
        page = str(error).encode()
    print(said, len(page), flush=True)
    sys.stdout.buffer.write(page)
    sys.stdout.buffer.flush()
"#;

/// A running interpreter, which ends with this value.
pub struct Python {
    child: Child,
    host: String,
    /// `None` once it is told that nothing more comes.
    visits: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// A client without a session that asks for `host`.
    ///
    /// # Panics
    /// When the interpreter does not start.
    pub fn start(stack: &Stack, host: &str) -> Self {
        Self::start_with(stack, host, "tickets")
    }

    /// As [`Self::start`], a client that takes no tickets.
    ///
    /// # Panics
    /// When the interpreter does not start.
    pub fn without_tickets(stack: &Stack, host: &str) -> Self {
        Self::start_with(stack, host, "ids")
    }

    fn start_with(stack: &Stack, host: &str, what: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]).arg(stack.authority()).arg(what).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the interpreter starts");
        let visits = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, host: host.to_owned(), visits, answers }
    }
}

impl Returning for Python {
    fn try_visit(&mut self, edge: &Edge) -> Result<Visit, String> {
        let visits = self.visits.as_mut().expect("the interpreter runs");
        writeln!(visits, "{} {} {}", self.host, edge.address.ip(), edge.address.port()).expect("it listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        let (said, length) = answer.trim().split_once(' ').expect("two words");
        let mut page = vec![0; length.parse().expect("a number")];
        self.answers.read_exact(&mut page).expect("the page");
        let page = String::from_utf8_lossy(&page).into_owned();
        if said == "failed" { Err(page) } else { Ok(Visit { resumed: said == "resumed", page }) }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.visits.take());
        // Fails for one that has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
