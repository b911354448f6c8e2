//! Does the time of an answer tell what was wrong?
//!
//! Each class of requests is timed, the classes interleaved at random, and compared by Welch's t-test with the class that
//! an attacker wants to tell from the others: a ciphertext whose padding and version are good, by somebody who does not
//! know the pre-master secret. A |t| above 4.5 would show a difference. To measure rather than to see that it runs:
//!
//! ```text
//! KEYSTEAD_TIMING_OPERATIONS=100000 cargo test --release -p keystead-keyserver timing -- --nocapture
//! ```
#![expect(clippy::print_stdout, reason = "the table is what the measurement is for")]

use std::time::Instant;

use rand::RngExt;

use super::*;

/// Ciphertexts of each class that are made beforehand; the blinding makes every use of one another computation.
const STOCK: usize = 512;
/// How much of all times is kept, the shortest first: interrupts and other programs make the rest.
const KEPT: [f64; 4] = [1.0, 0.99, 0.9, 0.5];

/// A class of requests.
struct Class {
    name: &'static str,
    stock: Vec<Encrypted>,
    /// What happens to the Finished before and after it is sealed.
    spoil: fn(&mut Vec<u8>),
    break_seal: fn(&mut Vec<u8>),
    times: Vec<f64>,
}

struct Encrypted {
    ciphertext: Vec<u8>,
    pre_master_secret: Vec<u8>,
}

impl Class {
    /// Clients that `wrong` names, with the Finished that fits what they have.
    fn of(key: &Key, name: &'static str) -> Self {
        let (_, wrong) = WRONG_KEY_EXCHANGES.iter().find(|(other, _)| *other == name).unwrap();
        let lease = Lease { server_random: [0; 32], token: Vec::new() };
        let make = |_| {
            let conversation = wrong(Form::PLAIN, key, &lease);
            let key_exchange = conversation.messages.last().unwrap();
            Encrypted { ciphertext: key_exchange[6..].to_vec(), pre_master_secret: conversation.pre_master_secret }
        };
        let stock = (0..STOCK).map(make).collect();
        Self { name, stock, spoil: |_| (), break_seal: |_| (), times: Vec::new() }
    }

    /// Clients whose ciphertext is good.
    fn good(key: &Key, name: &'static str) -> Self {
        let make = |_| {
            let block = key_transport::good_block();
            Encrypted { ciphertext: key_transport::encrypt(key, &block), pre_master_secret: block[208..].to_vec() }
        };
        let stock = (0..STOCK).map(make).collect();
        Self { name, stock, spoil: |_| (), break_seal: |_| (), times: Vec::new() }
    }

    fn ask(&mut self, key_server: &KeyServer) -> bool {
        let Encrypted { ciphertext, pre_master_secret } = &self.stock[self.times.len() % STOCK];
        let lease = key_server.lease();
        let conversation =
            Conversation::with_ciphertext(Form::PLAIN, &key_server.key, &lease, ciphertext, pre_master_secret);
        let mut finished = conversation.finished();
        (self.spoil)(&mut finished);
        let mut finished_record = conversation.seal(&finished);
        (self.break_seal)(&mut finished_record);
        let request = RecoverMasterSecret { finished_record, ..conversation.request() };
        let begun = Instant::now();
        let outcome = key_server.ask(&request);
        self.times.push(begun.elapsed().as_secs_f64());
        outcome.is_ok()
    }
}

fn classes(key: &Key) -> Vec<Class> {
    let unknown = Class { break_seal: |record| record[20] ^= 1, ..Class::good(key, "good, Finished not openable") };
    let wrong_finished = Class { spoil: |finished| finished[9] ^= 1, ..Class::good(key, "good, Finished wrong") };
    let wrong = [
        "block type 01",
        "00 at the first byte of the padding",
        "00 in the middle of the padding",
        "no 00 behind the block type",
        "TLS 1.1",
        "ciphertext is the modulus",
        "ciphertext with 00 behind",
        "ciphertext at random",
    ];
    let good = [unknown, Class::good(key, "valid"), wrong_finished];
    good.into_iter().chain(wrong.map(|name| Class::of(key, name))).collect()
}

#[test]
fn timing_of_the_classes_is_measured() {
    let operations = std::env::var("KEYSTEAD_TIMING_OPERATIONS").map_or(50, |count| count.parse().unwrap());
    let key_server = KeyServer::new();
    let mut classes = classes(&key_server.key);
    let mut turns: Vec<usize> = (0..classes.len()).collect();
    for _ in 0..operations {
        // Each round asks every class once, in another order.
        for last in (1..turns.len()).rev() {
            turns.swap(last, rand::rng().random_range(0..=last));
        }
        for turn in &turns {
            let class = &mut classes[*turn];
            assert_eq!(class.ask(&key_server), class.name == "valid", "{}", class.name);
        }
    }
    report(&classes);
    let t_values = classes.iter().skip(1).map(|class| welch(&class.times, &classes[0].times));
    assert!(t_values.into_iter().all(f64::is_finite), "every class has its t-value");
}

fn report(classes: &[Class]) {
    let mut all: Vec<f64> = classes.iter().flat_map(|class| class.times.iter().copied()).collect();
    all.sort_by(f64::total_cmp);
    let bounds = KEPT.map(|kept| all[((all.len() - 1) as f64 * kept) as usize]);
    println!(
        "| {:<36} | {:>10} | {:>7} | {:>7} | {:>7} | {:>7} |",
        "class", "median µs", "t all", "t 99 %", "t 90 %", "t 50 %"
    );
    println!("|{}|{}|{}", "-".repeat(38), "-".repeat(11) + ":", ("-".repeat(8) + ":|").repeat(4));
    for class in classes {
        let t_values = bounds.map(|bound| {
            let kept = |class: &Class| class.times.iter().copied().filter(|time| *time <= bound).collect::<Vec<_>>();
            format!("{:>7.2}", welch(&kept(class), &kept(&classes[0])))
        });
        let mut sorted = class.times.clone();
        sorted.sort_by(f64::total_cmp);
        println!("| {:<36} | {:>10.2} | {} |", class.name, sorted[sorted.len() / 2] * 1e6, t_values.join(" | "));
    }
    println!("{} operations of each class", classes[0].times.len());
}

/// How many standard errors the means are apart (Welch 1947).
fn welch(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let variance = |values: &[f64]| {
        let mean = mean(values);
        values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
    };
    let error = (variance(a) / a.len() as f64 + variance(b) / b.len() as f64).sqrt();
    (mean(a) - mean(b)) / error
}
