//! The key server over gRPC and mutual TLS, beside the raw primitive that it calls, both on one processor.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use keystead_local::pki::{Deployment, KEY_SERVER_NAME};
use keystead_program::channel::{ChannelConfig, ChannelMaterial, ClientChannel, Connector};
use keystead_proto::v1;
use keystead_proto::v1::exchange_reply::Outcome;
use keystead_proto::v1::exchange_request::Operation;
use keystead_proto::v1::key_server_client::KeyServerClient;
use keystead_tls::crypto::FAST;
use keystead_tls::{Identity, NamedGroup, SignatureScheme};
use rcgen::{CertificateParams, KeyPair, RsaKeySize};
use strum::{Display, EnumIter, IntoEnumIterator};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::effort::Effort;
use crate::load::tally::Latencies;
use crate::ours::KeyServer;
use crate::process::{MEASURED, Program, on_processor};
use crate::table::{Better, OURS, Table};

const RAW: &str = "raw aws-lc";
const EDGES: [&str; 2] = ["bench", "flood"];
const SERVED: &str = "localhost";
/// Requests under way at one time.
const IN_FLIGHT: [usize; 5] = [1, 16, 64, 256, 1024];
/// What edges have to a key server.
const CONNECTIONS: usize = 2;

/// The keys that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Display, EnumIter)]
enum Kind {
    #[strum(serialize = "P-256")]
    P256,
    #[strum(serialize = "Ed25519")]
    Ed25519,
    #[strum(serialize = "RSA-2048")]
    Rsa2048,
    #[strum(serialize = "RSA-3072")]
    Rsa3072,
    #[strum(serialize = "RSA-4096")]
    Rsa4096,
}

/// A key, as the key server and the raw primitive have it.
struct Key {
    identity: Identity,
    raw: Raw,
}

enum Raw {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// Measures it.
///
/// # Errors
/// What keeps it from starting, and requests that are refused.
pub fn part(effort: &Effort, directory: &Path) -> Result<Table> {
    let mut table = Table::default();
    let site = Site::start(directory)?;
    for round in 0..effort.rounds {
        for kind in Kind::iter() {
            effort.say(&format!("key server, round {}: {kind}", round + 1));
            let raw = site.raw(kind, effort.length)?;
            table.add(&format!("{kind}: signatures per CPU second"), Better::More, RAW, raw);
            for in_flight in IN_FLIGHT {
                let answered = site.load(EDGES[0], kind, in_flight, effort.length)?;
                if in_flight == BUSY {
                    let measure = format!("{kind}: signatures per CPU second");
                    table.add(&measure, Better::More, OURS, answered.count as f64 / answered.cpu_seconds);
                }
                let per_second = answered.count as f64 / effort.length.as_secs_f64();
                table.add(&format!("{kind}, {in_flight} in flight: signatures/s"), Better::More, OURS, per_second);
                let refused = answered.refused as f64 / effort.length.as_secs_f64();
                if refused > 0.0 {
                    table.add(&format!("{kind}, {in_flight} in flight: refused/s"), Better::Less, OURS, refused);
                }
                let latency = answered.latencies.quantiles().context("no signature was made")?;
                table.add(&format!("{kind}, {in_flight} in flight: p50 ms"), Better::Less, OURS, latency.p50);
                table.add(&format!("{kind}, {in_flight} in flight: p99 ms"), Better::Less, OURS, latency.p99);
            }
        }
        effort.say(&format!("key server, round {}: isolation", round + 1));
        let (idle, flooded) = site.isolation(effort.length)?;
        table.add("P-256, 1 in flight, alone: p99 ms", Better::Less, OURS, idle);
        table.add("P-256, 1 in flight, while another edge floods with RSA-4096: p99 ms", Better::Less, OURS, flooded);
        table.add("the second over the first", Better::Less, OURS, flooded / idle);
    }
    Ok(table)
}

/// What the CPU time of a signature is taken at.
const BUSY: usize = 64;

struct Site {
    keys: HashMap<Kind, Key>,
    address: SocketAddr,
    program: Program,
    directory: PathBuf,
    runtime: Runtime,
}

/// What came of load.
#[derive(Default)]
struct Answered {
    /// Signatures.
    count: u64,
    /// Refusals: of a queue that is full, or of a request that has waited for too long.
    refused: u64,
    latencies: Latencies,
    cpu_seconds: f64,
}

impl Site {
    fn start(directory: &Path) -> Result<Self> {
        let pki = directory.join("pki");
        Deployment::serving([SERVED], EDGES).provide(&pki)?;
        let keys: HashMap<_, _> =
            Kind::iter().map(|kind| Ok((kind, kind.make(&pki.join("keyserver"))?))).collect::<Result<_>>()?;
        let server = KeyServer {
            keys: Kind::iter().map(|kind| (kind.to_string(), kind.to_string())).collect(),
            edges: &EDGES,
            tables: "[limits]\nqueue_medium = 4096\nqueue_heavy = 4096\n",
        };
        let (program, address) = server.start(MEASURED, directory)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { keys, address, program, directory: directory.to_owned(), runtime })
    }

    fn key(&self, kind: Kind) -> Result<&Key> {
        self.keys.get(&kind).context("every kind has a key")
    }

    /// Signatures per CPU second of the primitive alone, on the processor that the key server has otherwise.
    fn raw(&self, kind: Kind, length: Duration) -> Result<f64> {
        let key = &self.key(kind)?.raw;
        on_processor(MEASURED, || {
            let (began, mut count) = (Instant::now(), 0_u32);
            while began.elapsed() < length / 2 {
                key.sign();
                count += 1;
            }
            f64::from(count) / began.elapsed().as_secs_f64()
        })
    }

    /// Keeps `in_flight` requests of an edge under way.
    fn load(&self, edge: &str, kind: Kind, in_flight: usize, length: Duration) -> Result<Answered> {
        let request = self.request(kind)?;
        let warm_up = length / 4;
        self.runtime.block_on(async {
            let streams = CONNECTIONS.min(in_flight);
            let window = (Instant::now() + warm_up, Instant::now() + warm_up + length);
            let mut tasks = Vec::new();
            for index in 0..streams {
                let mut stream = Stream::open(self.connection(edge)?).await?;
                let (share, request) = ((index..in_flight).step_by(streams).count(), request.clone());
                tasks.push(tokio::spawn(async move { stream.keep(share, &request, window).await }));
            }
            tokio::time::sleep_until(window.0.into()).await;
            let before = self.program.taken()?;
            tokio::time::sleep_until(window.1.into()).await;
            let after = self.program.taken()?;
            let mut all = Answered { cpu_seconds: after.cpu_seconds - before.cpu_seconds, ..Answered::default() };
            for task in tasks {
                let answered = task.await??;
                all.count += answered.count;
                all.refused += answered.refused;
                all.latencies.add(&answered.latencies);
            }
            Ok(all)
        })
    }

    /// The p99 of one edge's P-256 signatures, alone and while another floods with RSA-4096, in milliseconds.
    fn isolation(&self, length: Duration) -> Result<(f64, f64)> {
        let p99 = || {
            let answered = self.load(EDGES[0], Kind::P256, 1, length)?;
            Ok::<_, anyhow::Error>(answered.latencies.quantiles().context("no signature was made")?.p99)
        };
        let idle = p99()?;
        let request = self.request(Kind::Rsa4096)?;
        let stop = Arc::new(AtomicBool::new(false));
        let flooding = stop.clone();
        let end = Instant::now() + length * 3;
        let connection = self.runtime.block_on(async { self.connection(EDGES[1]) })?;
        let flood = self.runtime.spawn(async move {
            let mut stream = Stream::open(connection).await?;
            while !flooding.load(Ordering::Relaxed) && Instant::now() < end {
                let soon = Instant::now() + Duration::from_millis(200);
                stream.keep(FLOOD, &request, (Instant::now(), soon.min(end))).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
        let flooded = p99();
        stop.store(true, Ordering::Relaxed);
        self.runtime.block_on(flood)??;
        Ok((idle, flooded?))
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

    fn connection(&self, edge: &str) -> Result<Channel> {
        let config = ChannelConfig {
            certificate: "channel.pem".into(),
            private_key: "channel.key".into(),
            trust_roots: "channel-ca.pem".into(),
        };
        let directory = self.directory.join(format!("pki/edge-{edge}"));
        let channel = ClientChannel::new(&ChannelMaterial::load(&config, &directory)?);
        let connector = Connector::new(channel, self.address.into(), Some(KEY_SERVER_NAME.to_owned()))?;
        Ok(Endpoint::from_static("http://key-server").connect_with_connector_lazy(connector))
    }
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
        (from, to): (Instant, Instant),
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

impl Kind {
    fn scheme(self) -> SignatureScheme {
        match self {
            Self::P256 => SignatureScheme::ECDSA_SECP256R1_SHA256,
            Self::Ed25519 => SignatureScheme::ED25519,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => SignatureScheme::RSA_PKCS1_SHA256,
        }
    }

    /// Makes a key, and a certificate for it, in files named after it.
    fn make(self, directory: &Path) -> Result<Key> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        let pair = match self {
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Self::Rsa2048 => rsa(RsaKeySize::_2048),
            Self::Rsa3072 => rsa(RsaKeySize::_3072),
            Self::Rsa4096 => rsa(RsaKeySize::_4096),
        }?;
        let certificate = CertificateParams::new([SERVED.to_owned()])?.self_signed(&pair)?;
        fs::write(directory.join(format!("{self}.key")), pair.serialize_pem())?;
        fs::write(directory.join(format!("{self}.pem")), certificate.pem())?;
        let der = pair.serialize_der();
        let raw = match self {
            Self::P256 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).map(Raw::Ecdsa),
            Self::Ed25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Raw::Ed25519),
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => RsaKeyPair::from_pkcs8(&der).map(Raw::Rsa),
        };
        let identity = Identity::new(vec![certificate.der().to_vec()], SignatureScheme::KNOWN, None)?;
        Ok(Key { identity, raw: raw.map_err(|cause| anyhow!("{self}: {cause}"))? })
    }
}

/// As long as what is signed of ServerKeyExchange with X25519: two randoms, the curve, the point.
const SIGNED: [u8; 100] = [0x5a; 100];

impl Raw {
    fn sign(&self) {
        let random = SystemRandom::new();
        match self {
            Self::Ecdsa(key) => drop(std::hint::black_box(key.sign(&random, &SIGNED))),
            Self::Ed25519(key) => drop(std::hint::black_box(key.sign(&SIGNED))),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let done = key.sign(&RSA_PKCS1_SHA256, &random, &SIGNED, &mut signature);
                let _ = std::hint::black_box((done, signature));
            }
        }
    }
}
