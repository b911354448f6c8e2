//! Does the time of an answer tell what was wrong?
//!
//! Each class of requests is timed, the classes interleaved at random, and compared by Welch's t-test with the class that
//! an attacker wants to tell from the others: a ciphertext whose padding and version are good, by somebody who does not
//! know the pre-master secret. A |t| above 4.5 would show a difference.
//!
//! A ciphertext of another length than the modulus is one in plain sight, and a constant is decrypted in its place: these
//! classes are marked, and their t-values say what that length costs.
//!
//! To measure rather than to see that it runs:
//!
//! ```text
//! KEYSTEAD_TIMING_OPERATIONS=100000 cargo test --release -p keystead-keyserver timing -- --nocapture
//! ```
//!
//! `KEYSTEAD_TIMING_CLASSES`, names with `;` between them, has it leave out all others of those that go wrong.
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
    /// Clients that go wrong as `wrong` does, with the Finished that fits what they have.
    fn of(key: &Key, (name, wrong): Wrong, stock: usize) -> Self {
        let lease = Lease { server_random: [0; 32], token: Vec::new() };
        let make = |_| {
            let conversation = wrong(Form::PLAIN, key, &lease);
            let key_exchange = conversation.messages.last().unwrap();
            Encrypted { ciphertext: key_exchange[6..].to_vec(), pre_master_secret: conversation.pre_master_secret }
        };
        Self::with(name, (0..stock).map(make).collect())
    }

    /// Clients whose ciphertext is good.
    fn good(key: &Key, name: &'static str, stock: usize) -> Self {
        let make = |_| {
            let block = key_transport::good_block();
            Encrypted { ciphertext: key_transport::encrypt(key, &block), pre_master_secret: block[208..].to_vec() }
        };
        Self::with(name, (0..stock).map(make).collect())
    }

    fn with(name: &'static str, stock: Vec<Encrypted>) -> Self {
        Self { name, stock, spoil: |_| (), break_seal: |_| (), times: Vec::new() }
    }

    /// Whether the ciphertext's length gives it away, to everybody.
    fn is_of_another_length(&self) -> bool {
        self.stock[0].ciphertext.len() != 256
    }

    fn ask(&mut self, key_server: &KeyServer) -> bool {
        let Encrypted { ciphertext, pre_master_secret } = &self.stock[self.times.len() % self.stock.len()];
        let lease = key_server.lease();
        let conversation =
            Conversation::with_ciphertext(Form::PLAIN, key_server.key(), &lease, ciphertext, pre_master_secret);
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

fn classes(key: &Key, stock: usize) -> Vec<Class> {
    let unknown =
        Class { break_seal: |record| record[20] ^= 1, ..Class::good(key, "good, Finished not openable", stock) };
    let wrong_finished =
        Class { spoil: |finished| finished[9] ^= 1, ..Class::good(key, "good, Finished wrong", stock) };
    let good = [unknown, Class::good(key, VALID, stock), wrong_finished];
    good.into_iter().chain(chosen().into_iter().map(|wrong| Class::of(key, wrong, stock))).collect()
}

/// The classes that go wrong: all, or those that somebody asks for.
fn chosen() -> Vec<Wrong> {
    let Ok(names) = std::env::var("KEYSTEAD_TIMING_CLASSES") else { return WRONG_KEY_EXCHANGES.to_vec() };
    let find = |name: &str| WRONG_KEY_EXCHANGES.iter().copied().find(|(known, _)| *known == name);
    names.split(';').map(|name| find(name).unwrap()).collect()
}

const VALID: &str = "valid";

#[test]
fn timing_of_the_classes_is_measured() {
    let operations = std::env::var("KEYSTEAD_TIMING_OPERATIONS").map_or(50, |count| count.parse().unwrap());
    let key_server = KeyServer::new();
    let mut classes = classes(key_server.key(), STOCK.min(operations));
    let mut turns: Vec<usize> = (0..classes.len()).collect();
    for _ in 0..operations {
        // Each round asks every class once, in another order.
        for last in (1..turns.len()).rev() {
            turns.swap(last, rand::rng().random_range(0..=last));
        }
        for turn in &turns {
            let class = &mut classes[*turn];
            assert_eq!(class.ask(&key_server), class.name == VALID, "{}", class.name);
        }
    }
    let t_values = report(&classes);
    assert!(t_values.into_iter().all(f64::is_finite), "every class has its t-value");
}

/// Prints a table, and gives its t-values over all operations. Of the fastest a class may have too few for one.
fn report(classes: &[Class]) -> Vec<f64> {
    let mut all: Vec<f64> = classes.iter().flat_map(|class| class.times.iter().copied()).collect();
    all.sort_by(f64::total_cmp);
    let bounds = KEPT.map(|kept| all[((all.len() - 1) as f64 * kept) as usize]);
    println!("| Class | Median µs | t all | t 99 % | t 90 % | t 50 % |");
    println!("|---|--:|--:|--:|--:|--:|");
    let (mut t_values, mut largest) = (Vec::new(), 0_f64);
    for class in classes {
        let of_class = bounds.map(|bound| {
            let kept = |class: &Class| class.times.iter().copied().filter(|time| *time <= bound).collect::<Vec<_>>();
            welch(&kept(class), &kept(&classes[0]))
        });
        let mut sorted = class.times.clone();
        sorted.sort_by(f64::total_cmp);
        let mark = if class.is_of_another_length() { " (length)" } else { "" };
        let columns = of_class.map(|t| format!("{t:.2}")).join(" | ");
        println!("| {}{mark} | {:.2} | {columns} |", class.name, sorted[sorted.len() / 2] * 1e6);
        if !class.is_of_another_length() {
            largest = of_class.into_iter().map(f64::abs).fold(largest, f64::max);
        }
        t_values.push(of_class[0]);
    }
    println!(
        "{} operations of each class; the largest |t| of those not marked is {largest:.2}",
        classes[0].times.len()
    );
    t_values
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
