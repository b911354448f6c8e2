//! OCSP responses, made by OpenSSL in the authority's name.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::stack::{KeyType, pki};
use crate::tool;

/// A response that says of the certificate with this key that it is good, made in the scratch directory.
///
/// # Panics
/// When OpenSSL does not make one.
pub fn good(key: KeyType, scratch: &Path) -> Vec<u8> {
    let authority = pki::directory().join("authority");
    let (authority, authority_key) = (authority.join("ca.pem"), authority.join("ca.key"));
    let certificate = pki::directory().join("keyserver").join(key.stem()).with_extension("pem");
    let (index, request, response) = (scratch.join("index"), scratch.join("request"), scratch.join("response"));

    let serial = tool::run(Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(&certificate), b"");
    let serial = serial.text.trim().strip_prefix("serial=").expect("a serial number");
    fs::write(&index, format!("V\t491231235959Z\t\t{serial}\tunknown\t/CN=localhost\n")).expect("written");
    let ocsp = || {
        let mut command = Command::new("openssl");
        command.arg("ocsp");
        command
    };
    let mut asks = ocsp();
    asks.arg("-issuer").arg(&authority).arg("-cert").arg(&certificate).args(["-no_nonce", "-reqout"]).arg(&request);
    tool::run(&mut asks, b"").assert_success();
    let mut answers = ocsp();
    answers.arg("-index").arg(&index).arg("-CA").arg(&authority).arg("-rsigner").arg(&authority);
    answers.arg("-rkey").arg(&authority_key).arg("-reqin").arg(&request).arg("-respout").arg(&response);
    tool::run(answers.args(["-ndays", "1"]), b"").assert_success();
    fs::read(response).expect("a response")
}
