//! Faults, injected into a fleet that serves real clients: two edges, three key servers, a backend.
//!
//! ```text
//!  Load ── visits and transfers ──► edges ──► key servers
//!    │                                │            ▲
//!    ▼                                └─ backend   │ kill, stop, cut, delay, fill, move the clock, reload, roll
//!  Ledger ── windows before, during and after ──► Row ◄── Fault ◄── catalogue
//! ```
//!
//! `load` never waits for what it began: a client comes at each tick, whatever became of the one before. Every client
//! leaves a record in the `ledger`, and a `row` is what the ledger has of the time around one fault, with the verdict
//! on what must hold. `world` is the fleet in network namespaces, `compose` the one in containers.

pub mod audited;
pub mod backend;
pub mod campaign;
mod catalogue;
mod client;
mod clock;
pub mod compose;
mod configuration;
pub mod delay;
mod fault;
mod ledger;
mod load;
pub mod network;
pub mod report;
pub mod row;
pub mod soak;
mod statistics;
mod transfer;
mod world;
