//! The audit log of a key server that works, is killed, and whose disk is full.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use keystead_tests::rustls_client::is_served;
use keystead_tests::stack::{Signal, Stack, wait_until};

fn files(log: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|file| file.extension().is_some_and(|end| end == "jsonl")).collect();
    files.sort();
    files
}

fn records(log: &Path) -> Vec<serde_json::Value> {
    let texts: String = files(log).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    // What is being written has no end yet.
    let whole = texts.rfind('\n').map_or("", |end| &texts[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_handshake_is_on_record_also_over_a_kill_and_a_flipped_bit_is_found() {
    let mut stack = Stack::builder().audit().start();
    for _ in 0..5 {
        assert!(is_served(stack.edge()));
    }
    let log = stack.audit_log();
    let signed = |log: &Path| {
        let is_signature = |record: &&serde_json::Value| {
            record["operation"] == "sign_server_key_exchange" && record["outcome"] == "done"
        };
        records(log).iter().filter(is_signature).count()
    };
    wait_until("five signatures are on record", || signed(&log) == 5);
    let record = records(&log).into_iter().find(|record| record["operation"] == "sign_server_key_exchange").unwrap();
    assert_eq!(record["peer"], "spiffe://keystead.local/edge/one");
    assert_eq!(record["server_name"], "localhost");
    assert_eq!(record["server_random"].as_str().unwrap().len(), 64);
    assert_eq!(record["key_id"].as_str().unwrap().len(), 64);

    stack.key_server().restart();
    wait_until("handshakes work again", || is_served(stack.edge()));
    wait_until("the restart is on record", || {
        records(&log).iter().filter(|record| record["event"] == "started").count() == 2
    });
    stack.key_server().signal(Signal::TERM);
    assert!(stack.key_server().wait().success());
    assert!(signed(&log) >= 6);
    let (is_good, said) = stack.verify_audit(&log, &["--from", "1"]);
    assert!(is_good && said.contains("complete from its beginning") && said.contains("; 0 records"), "{said}");
    let last = said.split("last: ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(stack.verify_audit(&log, &["--expect-last", last]).0);

    let file = &files(&log)[0];
    let whole = fs::read(file).unwrap();
    let mut altered = whole.clone();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    fs::write(file, &altered).unwrap();
    let (is_good, said) = stack.verify_audit(&log, &[]);
    assert!(!is_good && said.contains(&format!("{}:", file.display())), "{said}");
    // Nor is it gone on with.
    stack.key_server().start_again();
    assert_eq!(stack.key_server().wait().code(), Some(1));
    assert!(stack.key_server().log().contains("move it away"));
    fs::write(file, &whole[..whole.len() - 100]).unwrap();
    assert!(!stack.verify_audit(&log, &["--expect-last", last]).0);
}

#[test]
fn a_full_disk_refuses_by_name_and_the_chain_goes_on() {
    let mut stack = Stack::builder().audit_on_disk("400k").start();
    assert!(is_served(stack.edge()));
    // Its own view of the directory.
    let log = Path::new("/proc").join(stack.key_server().pid().to_string()).join("root");
    let log = log.join(stack.audit_log().strip_prefix("/").unwrap());
    let hog = log.join("hog");
    let mut file = fs::File::create(&hog).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let count = |stack: &mut Stack, name: &str| stack.key_server().metric(&format!("keystead_keyserver_{name}"), &[]);
    wait_until("the log cannot be written", || {
        is_served(stack.edge());
        count(&mut stack, "audit_write_failures_total") > 0
    });
    let (status, why) = stack.key_server().get("/readyz");
    assert!(status == 503 && why.contains("audit_unavailable"), "{status} {why}");
    // The queue takes 64 before handshakes fail.
    wait_until("operations are refused", || {
        is_served(stack.edge());
        count(&mut stack, "audit_refused_total") > 0
    });
    assert!(!is_served(stack.edge()));
    assert!(stack.edge().failures("overloaded") > 0);

    drop(file);
    fs::remove_file(&hog).unwrap();
    wait_until("the key server is ready again", || stack.key_server().is_ready());
    wait_until("handshakes work again", || is_served(stack.edge()));
    // The disk goes with the process.
    wait_until("the refusals are on record", || {
        files(&log).iter().any(|file| fs::read_to_string(file).unwrap().contains("\"outcome\":\"audit_unavailable\""))
    });
    wait_until("all is on record", || count(&mut stack, "audit_queued") == 0);
    let copy = stack.directory().join("copy");
    fs::create_dir(&copy).unwrap();
    for file in files(&log) {
        fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    let (is_good, said) = stack.verify_audit(&copy, &["--from", "1"]);
    assert!(is_good, "{said}");
    let refused = records(&copy).into_iter().filter(|record| record["outcome"] == "audit_unavailable");
    let refused: u64 = refused.map(|record| record["count"].as_u64().unwrap_or(1)).sum();
    assert!(refused > 0);
}
