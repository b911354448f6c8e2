//! What one edge's flood of the dearest operations costs another edge's cheapest.
//!
//! Edge one asks for signatures with P-256, one after another, while edge two is idle, and while it floods the key server
//! with signatures by RSA-4096; in turns, over the channel as edges use it. To measure rather than to see that it runs, on
//! a machine that does nothing else:
//!
//! ```text
//! KEYSTEAD_ISOLATION_SAMPLES=3000 cargo test --release -p keystead-keyserver isolation -- --nocapture
//! ```
#![expect(clippy::print_stdout, reason = "the table is what the measurement is for")]

use rcgen::{KeyPair, RsaKeySize};

use super::*;

const CONFIG: &str = r#"
[limits]
queue_heavy = 64
[[key]]
name = "ec"
private_key = "ec.key"
certificate_chain = "ec.pem"
[[key]]
name = "rsa4096"
private_key = "rsa4096.key"
certificate_chain = "rsa4096.pem"
[[edge]]
id = "spiffe://keystead.test/edge/one"
keys = ["ec"]
[[edge]]
id = "spiffe://keystead.test/edge/two"
keys = ["rsa4096"]
"#;

/// Rounds of each kind.
const ROUNDS: usize = 7;
/// Requests that the flood has under way: more than may wait, so that some are refused, as in a flood.
const FLOOD: usize = 96;
/// Between one signature and the next.
const PAUSE: Duration = Duration::from_millis(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_of_one_edges_light_keys_from_anothers_flood_is_measured() {
    let samples = std::env::var("KEYSTEAD_ISOLATION_SAMPLES").map_or(20, |samples| samples.parse().unwrap());
    let prepare = |files: &Files| {
        let pair = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096).unwrap();
        files.write_key("rsa4096", &pair, &pair.serialize_pem());
    };
    let running = Arc::new(Running::with(CONFIG, prepare).await);
    let mut stream = running.exchange(EDGE_ONE).await;
    latencies(&running, &mut stream, samples).await;

    let (mut idle, mut flooded, mut flood_rate) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        idle.push(percentiles(latencies(&running, &mut stream, samples).await));
        let flood = Flood::begin(running.clone()).await;
        flooded.push(percentiles(latencies(&running, &mut stream, samples).await));
        flood_rate.push(flood.end().await);
    }
    let (idle, flooded) = (medians(idle), medians(flooded));
    println!("| P-256 signatures | p50 µs | p99 µs |");
    println!("|---|--:|--:|");
    println!("| alone | {:.0} | {:.0} |", idle[0], idle[1]);
    println!("| beside the flood | {:.0} | {:.0} |", flooded[0], flooded[1]);
    println!("| ratio | {:.2} | {:.2} |", flooded[0] / idle[0], flooded[1] / idle[1]);
    flood_rate.sort_by(f64::total_cmp);
    println!(
        "medians of {ROUNDS} interleaved rounds of {samples}; the flood had {:.0} RSA-4096 signatures a second",
        flood_rate[ROUNDS / 2]
    );
    assert!(flood_rate[0] > 0.0, "in each round there was a flood");
    // Where nobody measures, the machine does other things besides.
    let is_measured = std::env::var_os("KEYSTEAD_ISOLATION_SAMPLES").is_some();
    assert!(!is_measured || flooded[1] <= 2.0 * idle[1], "p99 within twice of idle");
}

/// Microseconds from request to answer.
async fn latencies(running: &Running, stream: &mut Stream, samples: usize) -> Vec<f64> {
    let mut latencies = Vec::with_capacity(samples);
    for _ in 0..samples {
        let request = running.ec();
        let begun = Instant::now();
        stream.send(1, request).await;
        assert!(matches!(stream.receive().await, (1, Reply::SignServerKeyExchange(_))));
        latencies.push(begun.elapsed().as_secs_f64() * 1e6);
        tokio::time::sleep(PAUSE).await;
    }
    latencies
}

fn percentiles(mut latencies: Vec<f64>) -> [f64; 2] {
    latencies.sort_by(f64::total_cmp);
    [50, 99].map(|percent| latencies[(latencies.len() - 1) * percent / 100])
}

fn medians(rounds: Vec<[f64; 2]>) -> [f64; 2] {
    [0, 1].map(|which| {
        let mut values: Vec<_> = rounds.iter().map(|round| round[which]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    })
}

/// Edge two, with always as many requests under way.
struct Flood {
    stop: CancellationToken,
    flooding: JoinHandle<f64>,
}

impl Flood {
    /// Comes back once it is in full course.
    async fn begin(running: Arc<Running>) -> Self {
        let stop = CancellationToken::new();
        let (begun, has_begun) = oneshot::channel();
        let flooding = tokio::spawn(flood(running, stop.clone(), begun));
        has_begun.await.unwrap();
        Self { stop, flooding }
    }

    /// How many signatures it was given each second.
    async fn end(self) -> f64 {
        self.stop.cancel();
        self.flooding.await.unwrap()
    }
}

async fn flood(running: Arc<Running>, stop: CancellationToken, begun: oneshot::Sender<()>) -> f64 {
    let mut stream = running.exchange(EDGE_TWO).await;
    let request = running.request(1, SignatureScheme::RSA_PSS_RSAE_SHA256);
    for _ in 0..FLOOD {
        stream.send(2, request.clone()).await;
    }
    let mut begun = Some(begun);
    let (since, mut signed) = (Instant::now(), 0);
    while !stop.is_cancelled() {
        if let (_, Reply::SignServerKeyExchange(_)) = stream.receive().await {
            signed += 1;
            begun.take().map(|begun| begun.send(()));
        } else {
            // Refused at once; asked again a little later, or this loop would be the load.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stream.send(2, request.clone()).await;
    }
    f64::from(signed) / since.elapsed().as_secs_f64()
}
