//! Measures Keystead beside what would be used in its place. `tests/bench/run` builds and runs everything;
//! docs/PERFORMANCE.md has the method and the results.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod backend;
pub mod criterion;
pub mod distance;
pub mod edge;
pub mod effort;
pub mod engine;
mod gokeyless;
pub mod keyserver;
pub mod load;
pub mod machine;
mod ours;
pub mod plot;
pub mod process;
pub mod standing;
pub mod table;
pub mod targets;
pub mod terminator;
