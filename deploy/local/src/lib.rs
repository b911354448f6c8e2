//! The whole of Keystead on one machine: development certificates, a demonstration backend, and the stack that starts
//! the real programs around them.
pub mod backend;
pub mod pki;
pub mod stack;
