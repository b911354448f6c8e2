//! `keystead-standing`: a server whose connections stand, for `keystead-bench` to see what memory they keep. It speaks
//! over its standard input and output.
#![forbid(unsafe_code)]

use anyhow::Result;
use clap::Parser;
use keystead_bench::engine::Subject;
use keystead_bench::standing;

/// Lets connections of one server stand; keystead-bench runs it
#[derive(Parser)]
struct Arguments {
    /// Which, by its name in the table
    subject: Subject,
}

fn main() -> Result<()> {
    standing::serve(Arguments::parse().subject)
}
