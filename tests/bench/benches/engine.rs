//! The engine in memory, beside rustls and OpenSSL's libssl. Criterion measures; what is counted is the server's time alone.

#![expect(missing_docs, reason = "criterion's macros make functions without")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keystead_bench::engine::{self, Coming, Libssl, Ours, Pair, Rustls, SUITES, Service};
use keystead_tests::signer::{self, Signer};
use keystead_tls::crypto::{FAST, PORTABLE};
use rustls::CipherSuite;
use rustls::crypto::{aws_lc_rs, ring};

/// All of them, by name.
fn services(signer: &'static Signer, coming: Coming) -> Vec<(&'static str, Box<dyn Service>)> {
    vec![
        ("keystead", Box::new(Ours::new(FAST, signer, coming)) as Box<dyn Service>),
        ("keystead portable", Box::new(Ours::new(PORTABLE, signer, coming))),
        ("rustls ring", Box::new(Rustls::new(ring::default_provider(), signer, coming))),
        ("rustls aws-lc-rs", Box::new(Rustls::new(aws_lc_rs::default_provider(), signer, coming))),
        ("OpenSSL", Box::new(Libssl::new(signer, coming))),
    ]
}

fn handshakes(criterion: &mut Criterion) {
    let rsa = (&*signer::RSA, CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "RSA-2048");
    let p256 = (&*signer::P256, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "P-256");
    for (signer, suite, key) in [rsa, p256] {
        let mut group = criterion.benchmark_group(format!("full handshake, {key}"));
        let clients = engine::clients(signer, suite, Coming::Full);
        for (name, service) in services(signer, Coming::Full) {
            let time = |count: u64, of: fn(&Pair) -> Duration| {
                (0..count).map(|_| of(&Pair::new(&clients, &*service))).sum::<Duration>()
            };
            group.bench_function(name, |bencher| bencher.iter_custom(|count| time(count, |pair| pair.spent)));
            if name.starts_with("keystead") {
                group.bench_function(format!("{name}, instant signer"), |bencher| {
                    bencher.iter_custom(|count| time(count, |pair| pair.spent - pair.waited));
                });
            }
        }
        group.finish();
    }
    let mut group = criterion.benchmark_group("resumed handshake, by id");
    let (signer, suite, _) = p256;
    for (name, service) in services(signer, Coming::ById) {
        let clients = engine::clients(signer, suite, Coming::ById);
        Pair::new(&clients, &*service);
        assert!(Pair::new(&clients, &*service).is_resumed(), "{name} does not resume");
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| Pair::new(&clients, &*service).spent).sum());
        });
    }
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let signer = &*signer::RSA;
    for (suite, suite_name) in SUITES {
        let clients = engine::clients(signer, suite, Coming::Full);
        for (direction, is_sealing) in [("seal", true), ("open", false)] {
            let mut group = criterion.benchmark_group(format!("{direction}, {suite_name}"));
            for size in [64, 1400, 16_384] {
                group.throughput(Throughput::Bytes(size));
                let data = vec![0x5a; usize::try_from(size).unwrap_or_default()];
                for (name, service) in services(signer, Coming::Full) {
                    let mut pair = Pair::new(&clients, &*service);
                    group.bench_function(BenchmarkId::new(name, size), |bencher| {
                        bencher.iter_custom(|count| {
                            if is_sealing {
                                (0..count).map(|_| pair.send(&data)).sum()
                            } else {
                                pair.receive(&data, count)
                            }
                        });
                    });
                }
            }
            group.finish();
        }
    }
}

criterion_group!(benches, handshakes, records);
criterion_main!(benches);
