//! What the program does beside serving.

pub(crate) mod audit;
pub(crate) mod edge;
pub(crate) mod key;
