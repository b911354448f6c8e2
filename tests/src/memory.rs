//! Looks for private keys in files and in the memory of processes.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use memchr::memmem::Finder;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

/// Traces that private keys leave behind.
#[derive(Default)]
pub struct Traces(Vec<Trace>);

struct Trace {
    /// Of which key.
    key: String,
    searcher: Finder<'static>,
}

/// Characters of a whole line of PEM.
const LINE: usize = 64;

/// Shorter numbers are not secret, and would be found by chance.
const SHORTEST_SECRET: usize = 16;

impl Traces {
    /// Adds those of the key in a PKCS#8 PEM file, by the name `key`: the file's lines, and every secret number in it, in
    /// both orders of bytes (the backward one is also what an array of machine words looks like on this machine).
    ///
    /// # Panics
    /// When it is no such file.
    pub fn add(&mut self, key: &str, file: &Path) {
        let pem = fs::read_to_string(file).expect("a key file");
        let mut trace = |bytes: &[u8]| {
            let searcher = Finder::new(bytes).into_owned();
            self.0.push(Trace { key: key.to_owned(), searcher });
        };
        // The begin of the first line, with the algorithm, is not secret; the last can be too short to mean anything.
        let lines = pem.lines().filter(|line| !line.starts_with('-'));
        let secret = lines.enumerate().map(|(number, line)| if number == 0 { &line[LINE / 2..] } else { line });
        secret.filter(|line| line.len() >= LINE / 2).for_each(|line| trace(line.as_bytes()));
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a private key");
        let numbers = secret_numbers(der.secret_der());
        assert!(!numbers.is_empty(), "no secrets in {}", file.display());
        for mut number in numbers {
            trace(&number);
            number.reverse();
            trace(&number);
        }
    }

    /// The keys of which traces are in the readable memory of a process.
    ///
    /// # Panics
    /// When its memory cannot be read.
    pub fn in_memory(&self, pid: u32) -> BTreeSet<String> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process's map");
        let mut memory = File::open(format!("/proc/{pid}/mem")).expect("the process's memory");
        let mut found = BTreeSet::new();
        let mut read = 0;
        for line in maps.lines() {
            let Some(region) = readable_region(line) else { continue };
            let mut bytes = Vec::new();
            // The kernel's own pages in the map cannot be read.
            let whole = memory.seek(SeekFrom::Start(region.start));
            let _ = whole.and_then(|_| (&mut memory).take(region.end - region.start).read_to_end(&mut bytes));
            read += bytes.len();
            found.extend(self.search(&bytes));
        }
        assert!(read > 1 << 20, "only {read} bytes of the process's memory could be read");
        found
    }

    /// The keys of which traces are in the files below a directory.
    ///
    /// # Panics
    /// When a file cannot be read.
    pub fn in_directory(&self, directory: &Path) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                found.extend(self.in_directory(&path));
            } else {
                found.extend(self.search(&fs::read(&path).expect("a file")));
            }
        }
        found
    }

    fn search(&self, bytes: &[u8]) -> impl Iterator<Item = String> {
        let found = self.0.iter().filter(|trace| trace.searcher.find(bytes).is_some());
        found.map(|trace| trace.key.clone())
    }
}

fn readable_region(line: &str) -> Option<std::ops::Range<u64>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    rest.starts_with('r').then_some(address(start)?..address(end)?)
}

/// The secret numbers in a PrivateKeyInfo (RFC 5958): of RSA the exponent and the primes with what is derived from them
/// (RFC 8017 A.1.2), of the others the one there is.
fn secret_numbers(private_key_info: &[u8]) -> Vec<Vec<u8>> {
    const INTEGER: u8 = 2;
    const OCTET_STRING: u8 = 4;
    let mut leaves = Vec::new();
    collect_leaves(private_key_info, &mut leaves);
    let longest = leaves.iter().map(|(_, value)| value.len()).max().unwrap_or_default();
    let mut numbers: Vec<_> =
        leaves.iter().filter(|(tag, value)| *tag == INTEGER && value.len() >= SHORTEST_SECRET).collect();
    if numbers.is_empty() {
        numbers.extend(leaves.iter().filter(|(tag, value)| *tag == OCTET_STRING && value.len() >= SHORTEST_SECRET));
    } else {
        // The modulus comes first, and is public.
        assert_eq!(numbers.remove(0).1.len(), longest);
    }
    let unsigned = |value: &Vec<u8>| value.iter().copied().skip_while(|byte| *byte == 0).collect();
    numbers.into_iter().map(|(_, value)| unsigned(value)).collect()
}

/// The primitive values in DER, also of those inside octet strings, in their order.
fn collect_leaves(mut der: &[u8], leaves: &mut Vec<(u8, Vec<u8>)>) {
    const OCTET_STRING: u8 = 4;
    const SEQUENCE: u8 = 0x30;
    const CONSTRUCTED: u8 = 0x20;
    while let Some((tag, value, rest)) = element(der) {
        let is_whole =
            |(inner, _, rest): (u8, &[u8], &[u8])| matches!(inner, OCTET_STRING | SEQUENCE) && rest.is_empty();
        let is_wrapper = tag == OCTET_STRING && element(value).is_some_and(is_whole);
        if tag & CONSTRUCTED != 0 || is_wrapper {
            collect_leaves(value, leaves);
        } else {
            leaves.push((tag, value.to_vec()));
        }
        der = rest;
    }
}

/// Tag, value and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], mut rest) = der.split_first_chunk()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (bytes, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = behind;
    }
    let (value, rest) = rest.split_at_checked(length)?;
    Some((tag, value, rest))
}
