//! Sessions that clients may resume.

pub mod store;
