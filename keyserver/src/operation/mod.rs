//! What a key server does with its keys: synchronous pure functions of a request, a key and a generator.

pub mod sign_server_key_exchange;
