//! Commands beside serving.

pub(crate) mod key;
