//! The choice of cryptography, as configurations name it.

use keystead_tls::crypto::{FAST, PORTABLE, Provider};
use serde::Deserialize;

/// Which libraries do the cryptography: `crypto` in a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crypto {
    /// The fastest measured: ring and aws-lc.
    #[default]
    Fast,
    /// Pure Rust.
    Portable,
}

impl Crypto {
    /// The engine's provider of that name.
    pub fn provider(self) -> &'static dyn Provider {
        match self {
            Self::Fast => FAST,
            Self::Portable => PORTABLE,
        }
    }
}
