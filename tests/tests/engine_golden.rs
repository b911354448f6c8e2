//! Conversations recorded with OpenSSL, replayed byte for byte: its bytes in, exactly the recorded bytes out, with both
//! providers.
//!
//! A recording is self-contained: certificate, the key server's answer and every byte are in it, and no private key.
//! To record all of them anew, where `openssl` is:
//!
//! ```text
//! cargo test -p keystead-tests --test engine_golden -- --ignored
//! ```

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};

use keystead_tests::resumption::By;
use keystead_tests::server::Server;
use keystead_tests::sessions::Sessions;
use keystead_tests::signer::{self, ED25519, P256, P384, RSA, SERVER_NAME, Signer};
use keystead_tls::crypto::{FAST, PORTABLE, Provider};
use keystead_tls::handshake::{SignatureRequest, SignedParams};
use keystead_tls::{HostParameters, Identity, NamedGroup, Session, SignatureScheme};
use rand::rand_core::{TryCryptoRng, TryRng};

/// A conversation to record.
struct Case {
    name: &'static str,
    signer: &'static LazyLock<Signer>,
    /// Of `openssl s_client`.
    arguments: &'static str,
    /// What is typed, a line each time the server is ready for one.
    types: &'static [&'static str],
    /// How often the server repeats each line in its answer.
    echoes: usize,
    /// What `openssl` must print.
    prints: &'static str,
    /// How the session of an earlier connection is named, if the client is to go on from one.
    resumes: Option<By>,
}

const TALKS: &[&str] = &["hello from openssl", "and goodbye", "Q"];

#[rustfmt::skip]
const CASES: [Case; 25] = [
    case("rsa_aes_128_gcm_x25519", &RSA, "-cipher ECDHE-RSA-AES128-GCM-SHA256 -curves X25519"),
    case("rsa_aes_256_gcm_secp256r1", &RSA, "-cipher ECDHE-RSA-AES256-GCM-SHA384 -curves P-256"),
    case("rsa_chacha20_poly1305_secp384r1", &RSA, "-cipher ECDHE-RSA-CHACHA20-POLY1305 -curves P-384"),
    case("rsa_pkcs1_sha256", &RSA, "-sigalgs RSA+SHA256"),
    case("rsa_pkcs1_sha512", &RSA, "-sigalgs RSA+SHA512"),
    case("p256_aes_128_gcm_secp256r1", &P256, "-cipher ECDHE-ECDSA-AES128-GCM-SHA256 -curves P-256"),
    case("p256_aes_256_gcm_secp384r1", &P256, "-cipher ECDHE-ECDSA-AES256-GCM-SHA384 -curves P-384:P-256"),
    case("p256_chacha20_poly1305_x25519", &P256, "-cipher ECDHE-ECDSA-CHACHA20-POLY1305 -curves X25519:P-256"),
    case("p384_aes_256_gcm_secp384r1", &P384, "-cipher ECDHE-ECDSA-AES256-GCM-SHA384 -curves P-384"),
    case("ed25519_aes_128_gcm_x25519", &ED25519, "-cipher ECDHE-ECDSA-AES128-GCM-SHA256 -curves X25519"),
    case("everything_by_default", &P256, ""),
    case("without_server_name", &P256, "-noservername"),
    case("alpn", &P256, "-alpn http/1.1,h2"),
    Case { types: &["to be repeated", "Q"], echoes: 2000, ..case("answers_of_two_records", &P256, "") },
    Case { types: &["R"], prints: "no renegotiation", ..case("renegotiation", &P256, "") },
    fails("unknown_ca", &P256, "-no-CAfile", "self-signed certificate"),
    fails("bad_staple", &P256, "-status", "response parse error"),
    fails("tls_1_1_only", &P256, "-tls1_1 -cipher ALL:@SECLEVEL=0", "alert protocol version"),
    fails("tls_1_1_by_fallback", &P256, "-tls1_1 -cipher ALL:@SECLEVEL=0 -fallback_scsv", "alert inappropriate fallback"),
    fails("tls_1_3_only", &P256, "-tls1_3", "alert protocol version"),
    fails("no_common_suite", &P256, "-cipher AES128-SHA", "alert handshake failure"),
    fails("no_common_group", &RSA, "-curves P-521", "alert handshake failure"),
    fails("no_common_alpn", &P256, "-alpn h3", "alert no application protocol"),
    resumes("resumed_by_ticket", "-alpn http/1.1", By::Ticket),
    resumes("resumed_by_id", "-no_ticket", By::Id),
];

const fn case(name: &'static str, signer: &'static LazyLock<Signer>, arguments: &'static str) -> Case {
    Case { name, signer, arguments, types: TALKS, echoes: 1, prints: "Verify return code: 0 (ok)", resumes: None }
}

const fn resumes(name: &'static str, arguments: &'static str, by: By) -> Case {
    Case { prints: "Reused, TLSv1.2", resumes: Some(by), ..case(name, &P256, arguments) }
}

const fn fails(
    name: &'static str,
    signer: &'static LazyLock<Signer>,
    arguments: &'static str,
    prints: &'static str,
) -> Case {
    Case { prints, ..case(name, signer, arguments) }
}

/// A line of a recording: a word, and bytes or text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    /// The certificate, in DER.
    Certificate(Vec<u8>),
    /// The byte that the ephemeral key is made of.
    Ephemeral(u8),
    /// The key server's answer.
    ServerRandom(Vec<u8>),
    Signature(Vec<u8>),
    /// A session that the server has kept: its name, and [`Session::to_bytes`].
    Session(Vec<u8>, Vec<u8>),
    /// Bytes from the client.
    Client(Vec<u8>),
    /// What was agreed on, or why the connection failed.
    Outcome(String),
    /// Application data that these bytes held.
    Received(Vec<u8>),
    /// The server sends application data.
    Send(Vec<u8>),
    /// The server sends close_notify.
    Close,
    /// Bytes for the client.
    Server(Vec<u8>),
}

impl Event {
    fn to_line(&self) -> String {
        match self {
            Self::Certificate(der) => format!("certificate {}", to_hex(der)),
            Self::Ephemeral(byte) => format!("ephemeral {byte:02x}"),
            Self::ServerRandom(random) => format!("server_random {}", to_hex(random)),
            Self::Signature(signature) => format!("signature {}", to_hex(signature)),
            Self::Session(name, bytes) => format!("session {} {}", to_hex(name), to_hex(bytes)),
            Self::Client(bytes) => format!("client {}", to_hex(bytes)),
            Self::Outcome(outcome) => format!("outcome {outcome}"),
            Self::Received(data) => format!("received {}", to_hex(data)),
            Self::Send(data) => format!("send {}", to_hex(data)),
            Self::Close => "close".into(),
            Self::Server(bytes) => format!("server {}", to_hex(bytes)),
        }
    }

    fn from_line(line: &str) -> Self {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "certificate" => Self::Certificate(from_hex(rest)),
            "ephemeral" => Self::Ephemeral(from_hex(rest).pop().unwrap()),
            "server_random" => Self::ServerRandom(from_hex(rest)),
            "signature" => Self::Signature(from_hex(rest)),
            "session" => {
                let (name, bytes) = rest.split_once(' ').unwrap();
                Self::Session(from_hex(name), from_hex(bytes))
            }
            "client" => Self::Client(from_hex(rest)),
            "outcome" => Self::Outcome(rest.into()),
            "received" => Self::Received(from_hex(rest)),
            "send" => Self::Send(from_hex(rest)),
            "close" => Self::Close,
            "server" => Self::Server(from_hex(rest)),
            _ => panic!("a line that is none: {line}"),
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.as_bytes().chunks(2).map(byte).collect()
}

/// A generator of one byte, again and again: every scalar of it is one of its group.
struct Repeating(u8);

impl TryRng for Repeating {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_ne_bytes([self.0; 4]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_ne_bytes([self.0; 8]))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        to.fill(self.0);
        Ok(())
    }
}

impl TryCryptoRng for Repeating {}

fn host(identity: Identity) -> HostParameters {
    let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A client that takes a P-256 certificate offers secp256r1 too, so secp384r1 stands in front of it.
    let groups = vec![NamedGroup::X25519, NamedGroup::SECP384R1, NamedGroup::SECP256R1];
    HostParameters { identities: vec![Arc::new(identity)], alpn, groups, ..HostParameters::default() }
}

/// What the server made of what it was fed last: what is new of received data and outcome.
fn news(server: &mut Server, told: &mut bool) -> Vec<Event> {
    let mut news = Vec::new();
    let outcome = match server.error() {
        Some(error) => Some(error.to_string()),
        None if server.is_established() && !*told => {
            let summary = server.summary();
            *told = true;
            let alpn = summary.alpn.map(|protocol| String::from_utf8(protocol).unwrap()).unwrap_or_default();
            let exchange = match summary.resumed {
                true => "resumed".into(),
                false => summary.group.zip(summary.scheme).map(|(group, scheme)| format!("{group} {scheme}")).unwrap(),
            };
            Some(format!("{} {exchange} {alpn}", summary.suite).trim_end().into())
        }
        None => None,
    };
    news.extend(outcome.map(Event::Outcome));
    let received = server.take_received();
    if !received.is_empty() {
        news.push(Event::Received(received));
    }
    news
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

// Replaying.

fn replay(name: &str, provider: &'static dyn Provider, recording: &[Event]) {
    let context = format!("{name} with {}", provider.name());
    let find = |find: fn(&Event) -> Option<Vec<u8>>| recording.iter().find_map(find).unwrap_or_default();
    let certificate = find(|event| if let Event::Certificate(der) = event { Some(der.clone()) } else { None });
    let ephemeral = find(|event| if let Event::Ephemeral(byte) = event { Some(vec![*byte]) } else { None });
    let random = find(|event| if let Event::ServerRandom(random) = event { Some(random.clone()) } else { None });
    let signature = find(|event| if let Event::Signature(signature) = event { Some(signature.clone()) } else { None });
    let answer = move |_: SignatureRequest<'_>| SignedParams {
        server_random: random.clone().try_into().unwrap(),
        signature: signature.clone(),
    };
    let identity = Identity::new(vec![certificate], SignatureScheme::KNOWN, Some(signer::OCSP_RESPONSE.to_vec()));
    let rng = Box::new(Repeating(*ephemeral.first().unwrap()));
    let sessions = Sessions::default();
    for event in recording {
        if let Event::Session(name, bytes) = event {
            sessions.put(name, &Session::read(bytes).unwrap());
        }
    }
    let server = Server::with(provider, host(identity.unwrap()), rng, Box::new(answer));
    let mut server = server.with_sessions(&sessions);
    let (mut told, mut expected) = (false, Vec::new());
    for event in recording {
        match event {
            Event::Certificate(_) | Event::Ephemeral(_) => {}
            Event::ServerRandom(_) | Event::Signature(_) | Event::Session(..) => {}
            Event::Client(bytes) => {
                assert_eq!(expected, [], "{context}");
                // Its outcome is among the news.
                let _ = server.feed(bytes);
                expected = news(&mut server, &mut told);
            }
            Event::Outcome(_) | Event::Received(_) => {
                assert!(!expected.is_empty(), "{context}: {event:?} did not come");
                assert_eq!(expected.remove(0), *event, "{context}");
            }
            Event::Send(data) => server.send(data),
            Event::Close => server.close(),
            Event::Server(bytes) => assert_eq!(to_hex(&server.take_output()), to_hex(bytes), "{context}"),
        }
    }
    assert_eq!((expected, server.take_output()), (vec![], vec![]), "{context}");
}

#[test]
fn recorded_conversations_replay_byte_for_byte_with_both_providers() {
    for case in CASES {
        let recording = fs::read_to_string(directory().join(case.name).with_extension("txt")).unwrap();
        let recording = recording.lines().map(Event::from_line).collect::<Vec<_>>();
        for provider in [FAST, PORTABLE] {
            replay(case.name, provider, &recording);
        }
    }
}

// Recording.

#[test]
#[ignore = "records the golden conversations anew, with openssl"]
fn record_conversations_with_openssl() {
    fs::create_dir_all(directory()).unwrap();
    for (index, case) in CASES.iter().enumerate() {
        let recording = record(case, u8::try_from(index).unwrap() + 1);
        let lines = recording.iter().map(|event| event.to_line() + "\n").collect::<String>();
        fs::write(directory().join(case.name).with_extension("txt"), lines).unwrap();
    }
}

fn record(case: &Case, ephemeral: u8) -> Vec<Event> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let certificate = case.signer.identity.chain().first().unwrap().clone();
    let directory = tempfile::tempdir().unwrap();
    let trusted = as_pem(&certificate, directory.path());
    let saved = directory.path().join("session.pem");
    let sessions =
        case.resumes.map_or_else(Sessions::default, |by| leave_session(case, by, &listener, &trusted, &saved));
    let mut command = s_client(case, &trusted, listener.local_addr().unwrap().port());
    if case.resumes.is_some() {
        command.arg("-sess_in").arg(&saved);
    }
    let mut openssl = command.spawn().unwrap();
    let socket = accept(&listener);

    let (answers, answer) = mpsc::channel();
    let key_server = move |request: SignatureRequest<'_>| {
        let signed = signer::sign(request, [0xa0 | (ephemeral & 0xf); 32]);
        answers.send(signed.clone()).unwrap();
        signed
    };
    let identity = Identity::clone(&case.signer.identity);
    let server = Server::with(FAST, host(identity), Box::new(Repeating(ephemeral)), Box::new(key_server));
    let mut server = server.with_sessions(&sessions);
    let mut recording = vec![Event::Certificate(certificate), Event::Ephemeral(ephemeral)];
    let kept = sessions.kept().into_iter();
    recording.extend(kept.map(|(name, session)| Event::Session(name, session.to_bytes().to_vec())));
    let conversation = converse(case, &mut server, socket, &mut openssl);
    if let Ok(signed) = answer.try_recv() {
        recording.extend([Event::ServerRandom(signed.server_random.into()), Event::Signature(signed.signature)]);
    }
    recording.extend(conversation);

    let printed = openssl.wait_with_output().unwrap();
    let printed = [printed.stdout, printed.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(printed.contains(case.prints), "{}: {:?} is not in\n{printed}", case.name, case.prints);
    recording
}

/// An earlier connection, of which `openssl` writes down the session; the server's part of it.
fn leave_session(case: &Case, by: By, listener: &TcpListener, trusted: &Path, saved: &Path) -> Sessions {
    let mut command = s_client(case, trusted, listener.local_addr().unwrap().port());
    let mut openssl = command.arg("-sess_out").arg(saved).spawn().unwrap();
    let (socket, sessions) = (accept(listener), by.sessions());
    let mut server = Server::new(FAST, host(Identity::clone(&case.signer.identity)), 1).with_sessions(&sessions);
    converse(case, &mut server, socket, &mut openssl);
    assert!(openssl.wait().unwrap().success());
    sessions
}

/// Writes the certificate as the PEM that `openssl` wants to trust.
fn as_pem(certificate: &[u8], directory: &Path) -> PathBuf {
    let (der, pem) = (directory.join("certificate.der"), directory.join("certificate.pem"));
    fs::write(&der, certificate).unwrap();
    let mut command = Command::new("openssl");
    command.args(["x509", "-inform", "DER", "-in"]).arg(&der).arg("-out").arg(&pem);
    assert!(command.status().unwrap().success());
    pem
}

fn s_client(case: &Case, trusted: &Path, port: u16) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-verify_return_error", "-4"]);
    let arguments = case.arguments.split_whitespace().collect::<Vec<_>>();
    if !arguments.iter().any(|argument| argument.starts_with("-tls1_")) {
        command.arg("-tls1_2");
    }
    if !arguments.contains(&"-noservername") {
        command.args(["-servername", SERVER_NAME]);
    }
    if !arguments.contains(&"-no-CAfile") {
        command.arg("-CAfile").arg(trusted);
    }
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if let Ok((socket, _)) = listener.accept() {
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            return socket;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("openssl did not connect")
}

/// Greets once connected, answers each line, closes when the client does, and writes everything down.
fn converse(case: &Case, server: &mut Server, mut socket: TcpStream, openssl: &mut Child) -> Vec<Event> {
    let mut events = Vec::new();
    let (mut told, mut lines) = (false, case.types.iter());
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = socket.read(&mut buffer).unwrap();
        if length == 0 {
            return events;
        }
        events.push(Event::Client(buffer.get(..length).unwrap().to_vec()));
        let failed = server.feed(buffer.get(..length).unwrap()).is_err();
        let news = news(server, &mut told);
        let received = news.iter().find_map(|event| if let Event::Received(data) = event { Some(data) } else { None });
        let answer = match received {
            Some(data) => Some(data.repeat(case.echoes)),
            None => (!failed && !news.is_empty()).then(|| b"hello from keystead\n".to_vec()),
        };
        events.extend(news);
        if let Some(answer) = answer {
            server.send(&answer);
            events.push(Event::Send(answer));
            if let Some(line) = lines.next() {
                // In one write: `openssl` reads a `Q` as a command where it is all that came.
                openssl.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
            }
        }
        if server.is_closed_by_client() {
            server.close();
            events.push(Event::Close);
        }
        let output = server.take_output();
        if !output.is_empty() {
            // The client may have left before the last bytes.
            let _ = socket.write_all(&output);
            events.push(Event::Server(output));
        }
        if failed || server.is_closed_by_client() {
            return events;
        }
    }
}
