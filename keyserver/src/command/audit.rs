//! `audit`: the signing key, and the verification of a log.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use keystead_keyserver::audit::chain::Head;
use keystead_keyserver::audit::signing_key::{PublicKey, SigningKey};
use keystead_keyserver::audit::verify::{Wanted, verify};
use keystead_program::run::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// Makes the key that checkpoints of the audit log are signed with, and prints the public key that verifies them
    Init {
        /// The file to make
        #[arg(long, value_name = "FILE")]
        signing_key: PathBuf,
    },
    /// Prints the public key that verifies what a key signs
    PublicKey {
        /// The file that `audit init` has made
        #[arg(long, value_name = "FILE")]
        signing_key: PathBuf,
    },
    /// Verifies an audit log: exits with 0 if nothing was altered, with 1 and the place if something was
    Verify {
        /// The directory of the log
        #[arg(long, value_name = "DIR")]
        directory: PathBuf,
        /// The public key that `audit init` has printed
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
        /// Begins with the file that holds this record, which must be there
        #[arg(long, value_name = "SEQ")]
        from: Option<u64>,
        /// A record that must be there, such as the last that is known: its number and its hash
        #[arg(long, value_name = "SEQ:HASH", value_parser = head)]
        expect_last: Option<Head>,
    },
}

fn head(text: &str) -> Result<Head, String> {
    let (sequence, hash) = text.split_once(':').ok_or("expected SEQ:HASH")?;
    let sequence = sequence.parse().map_err(|_| format!("{sequence:?} is no number"))?;
    Ok(Head { sequence, hash: hash.parse().map_err(|cause| format!("{cause}"))? })
}

pub(crate) fn run(command: Audit) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match command {
        Audit::Init { signing_key } => {
            let key = SigningKey::create(&signing_key).map_err(Failure::start)?;
            write!(out, "{}", key.public().to_pem()).map_err(Failure::start)
        }
        Audit::PublicKey { signing_key } => {
            let key = SigningKey::read(&signing_key).map_err(Failure::start)?;
            write!(out, "{}", key.public().to_pem()).map_err(Failure::start)
        }
        Audit::Verify { directory, public_key, from, expect_last } => {
            let key = PublicKey::read(&public_key).map_err(Failure::start)?;
            let verified = verify(&directory, &key, Wanted { from, last: expect_last }).map_err(Failure::start)?;
            write!(out, "{verified}").map_err(Failure::start)
        }
    }
}
