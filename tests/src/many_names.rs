//! A stack that serves many names, each with a key and a certificate of its own.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use rustls_pki_types::CertificateDer;

use crate::stack::pki::{Issuing, certify_name};
use crate::stack::{Stack, edit_file};

/// The name with this number.
pub fn name(number: usize) -> String {
    format!("n{number:05}.keystead.test")
}

/// Adds names 0 to `count` to a stack with one edge: keys with their certificates, and a virtual host for each.
pub struct ManyNames {
    directory: PathBuf,
    issuing: Issuing,
    /// How many there are.
    pub count: usize,
}

impl ManyNames {
    /// Writes all files, and then the configurations that name them.
    pub fn add(stack: &Stack, count: usize) -> Self {
        let many = Self { directory: stack.directory().join("keyserver/many"), issuing: Issuing::served(), count };
        fs::create_dir(&many.directory).expect("a directory");
        let (mut keys, mut hosts, mut names) = (String::new(), String::new(), String::new());
        let edge = fs::read_to_string(stack.directory().join("edge-one/edge.toml")).expect("a configuration");
        let backends = edge.lines().find(|line| line.starts_with("backends")).expect("the backends of a host");
        for number in 0..count {
            many.certify(number);
            let name = name(number);
            // Writing to a string cannot fail.
            let _ = writeln!(
                keys,
                "[[key]]\nname = \"{name}\"\nprivate_key = \"many/{name}.key\"\ncertificate_chain = \"many/{name}.pem\""
            );
            let _ = writeln!(hosts, "[[virtual_host]]\nnames = [\"{name}\"]\nkeys = [\"{name}\"]\n{backends}");
            let _ = write!(names, ", \"{name}\"");
        }
        edit_file(&stack.directory().join("keyserver/keyserver.toml"), |text| {
            let (before, edges) = text.split_once("[[edge]]").expect("an edge");
            format!("{before}{keys}[[edge]]{}", edges.replacen("\"]", &format!("\"{names}]"), 1))
        });
        edit_file(&stack.directory().join("edge-one/edge.toml"), |text| format!("{text}{hosts}"));
        many
    }

    /// Makes another key and certificate for this name, in the place of those there are.
    pub fn certify(&self, number: usize) -> CertificateDer<'static> {
        let name = name(number);
        certify_name(&self.directory.join(&name), &name, &self.issuing)
    }
}
