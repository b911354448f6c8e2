//! The key server over gRPC and mutual TLS, beside the raw primitive that it calls and beside gokeyless, all on one processor.

mod keys;

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use keystead_local::pki::{Deployment, KEY_SERVER_NAME};
use keystead_program::channel::{ChannelConfig, ChannelMaterial, ClientChannel, Connector};
use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_proto::v1::exchange_request::Operation;
use keystead_proto::v1::key_server_client::KeyServerClient;
use keystead_tls::NamedGroup;
use keystead_tls::crypto::FAST;
use strum::IntoEnumIterator;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

use self::keys::{Key, Kind};
use crate::effort::Effort;
use crate::gokeyless::Gokeyless;
use crate::load::cpu_seconds;
use crate::load::tally::Latencies;
use crate::ours::{KeyServer, make};
use crate::process::{MEASURED, Program, on_processor};
use crate::table::{Better, OURS, Table};

/// The key server with its audit log.
const AUDITED: &str = "keystead with audit";
const RAW: &str = "raw aws-lc";
const GOKEYLESS: &str = "gokeyless";
const EDGES: [&str; 2] = ["bench", "flood"];
const SERVED: &str = "localhost";
/// Requests under way at one time.
const IN_FLIGHT: [usize; 5] = [1, 16, 64, 256, 1024];
/// With so many under way, each finds the key server at work.
const MANY: usize = 64;
/// What edges have to a key server.
const CONNECTIONS: usize = 2;

/// Measures it.
///
/// # Errors
/// What keeps it from starting, and requests that are refused.
pub fn part(effort: &Effort, directory: &Path) -> Result<Table> {
    let mut table = Table::default();
    let site = Site::start(directory)?;
    if site.gokeyless.is_none() {
        table.skip("key server: gokeyless is not installed".to_owned());
    }
    for round in 0..effort.rounds {
        for kind in Kind::iter() {
            effort.say(&format!("key server, round {}: {kind}", round + 1));
            let raw = site.raw(kind, effort.length)?;
            for in_flight in IN_FLIGHT {
                let mut note = |subject, answered: Answered| {
                    note(&mut table, subject, &format!("{kind}, {in_flight} in flight"), effort.length, &answered)
                };
                note(OURS, site.load(&site.plain, EDGES[0], kind, in_flight, effort.length)?)?;
                if in_flight == MANY {
                    note(AUDITED, site.load(&site.audited, EDGES[0], kind, in_flight, effort.length)?)?;
                }
                if let Some(answered) = site.load_gokeyless(kind, in_flight, effort.length)? {
                    note(GOKEYLESS, answered)?;
                }
                table.add(&format!("{kind}, {in_flight} in flight: {PER_CPU_SECOND}"), Better::More, RAW, raw);
            }
        }
        for (kind, flood) in [(Kind::P256, Kind::Rsa4096), (Kind::Rsa2048, Kind::Rsa2048)] {
            effort.say(&format!("key server, round {}: isolation, {kind}", round + 1));
            let Isolation { alone: idle, flooded, flood_rate } = site.isolation(kind, flood, effort.length)?;
            let (alone, beside) = (format!("{kind}, one edge alone"), format!("while another floods with {flood}"));
            table.add(&format!("{alone}: p99 ms"), Better::Less, OURS, idle);
            table.add(&format!("{kind}, {beside}: p99 ms"), Better::Less, OURS, flooded);
            table.add(&format!("{kind}, {beside}: the flood's signatures/s"), Better::Neither, OURS, flood_rate);
            table.add(&format!("{kind}, {beside}, over {alone}"), Better::Less, OURS, flooded / idle);
        }
    }
    Ok(table)
}

/// Adds what came of load.
fn note(table: &mut Table, subject: &str, load: &str, length: Duration, answered: &Answered) -> Result<()> {
    let per_second = |count: u64| count as f64 / length.as_secs_f64();
    let mut add = |what: &str, better, value| table.add(&format!("{load}: {what}"), better, subject, value);
    add("signatures/s", Better::More, per_second(answered.count));
    add(PER_CPU_SECOND, Better::More, answered.count as f64 / answered.cpu_seconds);
    add("load generator's CPU µs each", Better::Neither, answered.clients * 1e6 / answered.count as f64);
    if answered.refused > 0 {
        add("refused/s", Better::Less, per_second(answered.refused));
    }
    let latency = answered.latencies.quantiles().context("no signature was made")?;
    add("p50 ms", Better::Less, latency.p50);
    add("p99 ms", Better::Less, latency.p99);
    Ok(())
}

const PER_CPU_SECOND: &str = "signatures per CPU second";

struct Site {
    keys: HashMap<Kind, Key>,
    plain: Server,
    audited: Server,
    gokeyless: Option<Gokeyless>,
    directory: PathBuf,
    runtime: Runtime,
}

/// A key server that runs.
struct Server {
    program: Program,
    address: SocketAddr,
}

impl Server {
    /// Starts it in `directory`, with these tables and [`LIMITS`].
    fn start(directory: &Path, tables: &str) -> Result<Self> {
        let server = KeyServer {
            keys: Kind::iter().map(|kind| (kind.to_string(), kind.to_string())).collect(),
            edges: &EDGES,
            tables: &format!("{LIMITS}{tables}"),
        };
        let (program, address) = server.start(MEASURED, directory)?;
        Ok(Self { program, address })
    }
}

/// As many as are under way must find a place in a queue.
const LIMITS: &str = "[limits]\nqueue_medium = 4096\nqueue_heavy = 4096\n";

/// When answers are counted: from the one to the other.
pub(crate) type Window = (Instant, Instant);

/// What came of load.
#[derive(Default)]
pub(crate) struct Answered {
    /// Signatures.
    pub(crate) count: u64,
    /// Refusals: of a queue that is full, or of a request that has waited for too long.
    pub(crate) refused: u64,
    /// From request to answer.
    pub(crate) latencies: Latencies,
    /// CPU time of the program that answers.
    pub(crate) cpu_seconds: f64,
    /// CPU time of those who ask.
    clients: f64,
}

/// One edge beside another.
struct Isolation {
    /// The p99 of its signatures, one at a time, in milliseconds.
    alone: f64,
    /// The same while the other floods.
    flooded: f64,
    /// Signatures that the other had, each second.
    flood_rate: f64,
}

impl Site {
    fn start(directory: &Path) -> Result<Self> {
        let pki = directory.join("pki");
        Deployment::serving([SERVED], EDGES).provide(&pki)?;
        let keys: HashMap<_, _> =
            Kind::iter().map(|kind| Ok((kind, kind.make(&pki.join("keyserver"))?))).collect::<Result<_>>()?;
        let plain = Server::start(directory, "")?;
        let audited = Server::start(&with_audit(directory)?, AUDIT)?;
        let files: Vec<_> = Kind::iter().map(|kind| pki.join(format!("keyserver/{kind}.key"))).collect();
        let gokeyless = Gokeyless::find().map(|program| Gokeyless::start(&program, &files, EDGES[0], directory));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { keys, plain, audited, gokeyless: gokeyless.transpose()?, directory: directory.to_owned(), runtime })
    }

    fn key(&self, kind: Kind) -> Result<&Key> {
        self.keys.get(&kind).context("every kind has a key")
    }

    /// Signatures per CPU second of the primitive alone, on the processor that the key server has otherwise.
    fn raw(&self, kind: Kind, length: Duration) -> Result<f64> {
        let key = &self.key(kind)?.raw;
        on_processor(MEASURED, || {
            let (began, before, mut count) = (Instant::now(), thread_cpu_seconds(), 0_u32);
            while began.elapsed() < length / 2 {
                key.sign();
                count += 1;
            }
            f64::from(count) / (thread_cpu_seconds() - before)
        })
    }

    /// Keeps `in_flight` requests of an edge under way.
    fn load(&self, server: &Server, edge: &str, kind: Kind, in_flight: usize, length: Duration) -> Result<Answered> {
        let request = self.request(kind)?;
        self.runtime.block_on(under_load(&server.program, in_flight, length, |share, window| {
            let (connection, request) = (self.connection(server, edge), request.clone());
            async move { Stream::open(connection?).await?.keep(share, &request, window).await }
        }))
    }

    /// The same of gokeyless, where it is installed.
    fn load_gokeyless(&self, kind: Kind, in_flight: usize, length: Duration) -> Result<Option<Answered>> {
        let request = self.key(kind)?.gokeyless_request(kind);
        let Some((gokeyless, request)) = self.gokeyless.as_ref().zip(request) else { return Ok(None) };
        let answered = under_load(&gokeyless.program, in_flight, length, |share, window| {
            let (connection, request) = (gokeyless.connection(), request.clone());
            async move { connection.await?.keep(share, &request, window).await }
        });
        self.runtime.block_on(answered).map(Some)
    }

    /// One edge's signatures, alone and while another keeps [`FLOOD`] of `flood` under way.
    fn isolation(&self, kind: Kind, flood: Kind, length: Duration) -> Result<Isolation> {
        let p99 = || {
            let answered = self.load(&self.plain, EDGES[0], kind, 1, length)?;
            Ok::<_, anyhow::Error>(answered.latencies.quantiles().context("no signature was made")?.p99)
        };
        let alone = p99()?;
        let request = self.request(flood)?;
        let connection = self.runtime.block_on(async { self.connection(&self.plain, EDGES[1]) })?;
        // Longer than what is measured beside it.
        let (began, lasts) = (Instant::now(), length * 2);
        let flood = self
            .runtime
            .spawn(async move { Stream::open(connection).await?.keep(FLOOD, &request, (began, began + lasts)).await });
        let flooded = p99()?;
        ensure!(began.elapsed() < lasts, "the flood ended before what was measured beside it");
        let answered = self.runtime.block_on(flood)??;
        Ok(Isolation { alone, flooded, flood_rate: answered.count as f64 / lasts.as_secs_f64() })
    }

    fn request(&self, kind: Kind) -> Result<v1::SignServerKeyExchangeRequest> {
        let identity = &self.key(kind)?.identity;
        let pair = FAST.key_pair(NamedGroup::X25519, &mut rand::rng()).context("no key pair")?;
        Ok(v1::SignServerKeyExchangeRequest {
            key_id: identity.public_key().key_id().0.to_vec(),
            client_random: vec![7; 32],
            scheme: kind.scheme().0.into(),
            group: NamedGroup::X25519.0.into(),
            public: pair.public().to_vec(),
            server_name: SERVED.to_owned(),
        })
    }

    fn connection(&self, server: &Server, edge: &str) -> Result<Channel> {
        let config = ChannelConfig {
            certificate: "channel.pem".into(),
            private_key: "channel.key".into(),
            trust_roots: "channel-ca.pem".into(),
        };
        let directory = self.directory.join(format!("pki/edge-{edge}"));
        let channel = ClientChannel::new(&ChannelMaterial::load(&config, &directory)?);
        let connector = Connector::new(channel, server.address.into(), Some(KEY_SERVER_NAME.to_owned()))?;
        Ok(Endpoint::from_static("http://key-server").connect_with_connector_lazy(connector))
    }
}

/// A directory below `directory`, with the same certificates and keys, for a key server with an audit log.
fn with_audit(directory: &Path) -> Result<PathBuf> {
    let audited = directory.join("audited");
    fs::create_dir(&audited)?;
    symlink(directory.join("pki"), audited.join("pki"))?;
    make(&["audit", "init", "--signing-key"], &audited.join("audit.key"))?;
    Ok(audited)
}

/// The table of a key server in such a directory.
const AUDIT: &str = "[audit]\ndirectory = \"audit\"\nsigning_key = \"audit.key\"\n";

/// CPU time of this thread.
fn thread_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default().as_secs_f64()
}

/// Has `in_flight` requests kept under way over the connections that an edge has, by what `keep` begins for each with its
/// share of them.
async fn under_load<F>(
    program: &Program,
    in_flight: usize,
    length: Duration,
    keep: impl Fn(usize, Window) -> F,
) -> Result<Answered>
where
    F: Future<Output = Result<Answered>> + Send + 'static,
{
    let warm_up = length / 4;
    let connections = CONNECTIONS.min(in_flight);
    let window = (Instant::now() + warm_up, Instant::now() + warm_up + length);
    let share = |index| (index..in_flight).step_by(connections).count();
    let tasks: Vec<_> = (0..connections).map(|index| tokio::spawn(keep(share(index), window))).collect();
    tokio::time::sleep_until(window.0.into()).await;
    let (before, clients) = (program.taken()?.cpu_seconds, cpu_seconds());
    tokio::time::sleep_until(window.1.into()).await;
    let clients = cpu_seconds() - clients;
    let mut all = Answered { cpu_seconds: program.taken()?.cpu_seconds - before, clients, ..Answered::default() };
    for task in tasks {
        let answered = task.await??;
        all.count += answered.count;
        all.refused += answered.refused;
        all.latencies.add(&answered.latencies);
    }
    Ok(all)
}

/// DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED: what a key server that has too much to do answers with.
const OVERLOAD: [u32; 2] = [4, 8];
/// Requests that an edge floods with.
const FLOOD: usize = 512;

/// Requests and replies of one connection.
struct Stream {
    requests: mpsc::UnboundedSender<v1::ExchangeRequest>,
    replies: tonic::Streaming<v1::ExchangeReply>,
    next: u64,
    sent: HashMap<u64, Instant>,
}

impl Stream {
    async fn open(connection: Channel) -> Result<Self> {
        let (requests, outgoing) = mpsc::unbounded_channel();
        let replies = KeyServerClient::new(connection).exchange(UnboundedReceiverStream::new(outgoing)).await?;
        Ok(Self { requests, replies: replies.into_inner(), next: 0, sent: HashMap::new() })
    }

    /// Keeps `count` requests under way until the window's end, and waits for the answers that are out then.
    async fn keep(
        &mut self,
        count: usize,
        request: &v1::SignServerKeyExchangeRequest,
        (from, to): Window,
    ) -> Result<Answered> {
        let mut answered = Answered::default();
        for _ in 0..count {
            self.ask(request)?;
        }
        while !self.sent.is_empty() {
            let reply = self.replies.message().await?.context("the stream ended")?;
            let sent = self.sent.remove(&reply.id).context("an answer to nothing")?;
            let at = Instant::now();
            let is_counted = (from..to).contains(&at);
            match reply.outcome {
                Some(Outcome::SignServerKeyExchange(_)) if is_counted => {
                    answered.count += 1;
                    answered.latencies.record(at - sent);
                }
                Some(Outcome::SignServerKeyExchange(_)) => {}
                Some(Outcome::Refusal(v1::Refusal { code, .. })) if OVERLOAD.contains(&code) => {
                    answered.refused += u64::from(is_counted);
                }
                outcome => bail!("no signature: {outcome:?}"),
            }
            if at < to {
                self.ask(request)?;
            }
        }
        Ok(answered)
    }

    fn ask(&mut self, request: &v1::SignServerKeyExchangeRequest) -> Result<()> {
        self.next += 1;
        self.sent.insert(self.next, Instant::now());
        let operation = Some(Operation::SignServerKeyExchange(request.clone()));
        let request = v1::ExchangeRequest { id: self.next, operation, ..v1::ExchangeRequest::default() };
        self.requests.send(request).map_err(|_| anyhow!("the stream ended"))
    }
}
