//! The engine in memory, beside rustls and OpenSSL's libssl. Criterion measures; what is counted is the server's time alone.

#![expect(missing_docs, reason = "criterion's macros make functions without")]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keystead_bench::engine::{self, Coming, Pair, SUITES, Service, Subject};
use keystead_tests::signer::{self, Signer};
use rustls::CipherSuite;
use strum::IntoEnumIterator;

/// All of them, by name.
fn services(signer: &'static Signer, coming: Coming) -> Vec<(Subject, Box<dyn Service>)> {
    Subject::iter().map(|subject| (subject, subject.service(signer, coming))).collect()
}

fn handshakes(criterion: &mut Criterion) {
    let rsa = (&*signer::RSA, CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "RSA-2048");
    let p256 = (&*signer::P256, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "P-256");
    for (signer, suite, key) in [rsa, p256] {
        let mut group = criterion.benchmark_group(format!("full handshake, {key}"));
        let clients = engine::clients(signer, suite, Coming::Full);
        for (subject, service) in services(signer, Coming::Full) {
            let time = |count: u64, of: fn(&Pair) -> Duration| {
                (0..count).map(|_| of(&Pair::new(&clients, &*service))).sum::<Duration>()
            };
            group.bench_function(subject.to_string(), |bencher| {
                bencher.iter_custom(|count| time(count, |pair| pair.spent))
            });
            if subject.is_ours() {
                group.bench_function(format!("{subject}, instant signer"), |bencher| {
                    bencher.iter_custom(|count| time(count, |pair| pair.spent - pair.waited));
                });
            }
        }
        group.finish();
    }
    let (signer, suite, _) = p256;
    for (coming, by) in [(Coming::ById, "id"), (Coming::ByTicket, "ticket")] {
        let mut group = criterion.benchmark_group(format!("resumed handshake, by {by}"));
        for (subject, service) in services(signer, coming) {
            let clients = engine::clients(signer, suite, coming);
            assert!(!Pair::new(&clients, &*service).is_resumed(), "{subject} resumes what has not been");
            let resume = || {
                let pair = Pair::new(&clients, &*service);
                assert!(pair.is_resumed(), "{subject} does not resume by {by}");
                pair.spent
            };
            group.bench_function(subject.to_string(), |bencher| {
                bencher.iter_custom(|count| (0..count).map(|_| resume()).sum())
            });
        }
        group.finish();
    }
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
                for (subject, service) in services(signer, Coming::Full) {
                    let mut pair = Pair::new(&clients, &*service);
                    group.bench_function(BenchmarkId::new(subject.to_string(), size), |bencher| {
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
