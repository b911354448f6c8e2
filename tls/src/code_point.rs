//! The numbers of the wire: newtypes with constants, so that values this engine does not know survive being read.

macro_rules! code_points {
    ($(#[$meta:meta])* $name:ident($integer:ty) { $($(#[$value_meta:meta])* $constant:ident = $value:literal, $word:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $integer);

        impl $name {
            $($(#[$value_meta])* #[doc = concat!("`", $word, "`")] pub const $constant: Self = Self($value);)+

            /// The name that the registry or the RFC gives this value; `None` for one this engine does not know.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some($word),)+
                    _ => None,
                }
            }

            /// The value of that name; `None` for a name this engine does not know.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($word => Some(Self::$constant),)+
                    _ => None,
                }
            }

            /// Every value this engine knows, in the order of this list.
            pub const KNOWN: &'static [Self] = &[$(Self::$constant),+];
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}({:#06x})", stringify!($name), self.0),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self, f)
            }
        }
    };
}

code_points! {
    /// A protocol version (RFC 5246 §6.2.1).
    ProtocolVersion(u16) {
        SSL_3_0 = 0x0300, "SSLv3";
        TLS_1_0 = 0x0301, "TLSv1";
        TLS_1_1 = 0x0302, "TLSv1.1";
        TLS_1_2 = 0x0303, "TLSv1.2";
        TLS_1_3 = 0x0304, "TLSv1.3";
    }
}

code_points! {
    /// What a record carries (RFC 5246 §6.2.1).
    ContentType(u8) {
        CHANGE_CIPHER_SPEC = 20, "change_cipher_spec";
        ALERT = 21, "alert";
        HANDSHAKE = 22, "handshake";
        APPLICATION_DATA = 23, "application_data";
    }
}

code_points! {
    /// What a handshake message is (RFC 5246 §7.4).
    HandshakeType(u8) {
        HELLO_REQUEST = 0, "hello_request";
        CLIENT_HELLO = 1, "client_hello";
        SERVER_HELLO = 2, "server_hello";
        NEW_SESSION_TICKET = 4, "new_session_ticket";
        CERTIFICATE = 11, "certificate";
        SERVER_KEY_EXCHANGE = 12, "server_key_exchange";
        CERTIFICATE_REQUEST = 13, "certificate_request";
        SERVER_HELLO_DONE = 14, "server_hello_done";
        CERTIFICATE_VERIFY = 15, "certificate_verify";
        CLIENT_KEY_EXCHANGE = 16, "client_key_exchange";
        FINISHED = 20, "finished";
        CERTIFICATE_STATUS = 22, "certificate_status";
    }
}

code_points! {
    /// A cipher suite, by the registry's name.
    CipherSuite(u16) {
        RSA_WITH_AES_128_GCM_SHA256 = 0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256";
        RSA_WITH_AES_256_GCM_SHA384 = 0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384";
        ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 = 0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
        ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 = 0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
        ECDHE_RSA_WITH_AES_128_GCM_SHA256 = 0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        ECDHE_RSA_WITH_AES_256_GCM_SHA384 = 0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384";
        ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 = 0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256";
        ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 = 0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
        /// RFC 5746 §3.3.
        EMPTY_RENEGOTIATION_INFO_SCSV = 0x00ff, "TLS_EMPTY_RENEGOTIATION_INFO_SCSV";
        /// RFC 7507.
        FALLBACK_SCSV = 0x5600, "TLS_FALLBACK_SCSV";
    }
}

code_points! {
    /// A group for the key exchange (RFC 8422 §5.1.1).
    NamedGroup(u16) {
        SECP256R1 = 23, "secp256r1";
        SECP384R1 = 24, "secp384r1";
        X25519 = 29, "x25519";
    }
}

code_points! {
    /// A signature scheme (RFC 8446 §4.2.3; RFC 5246's pairs of hash and signature have the same numbers).
    SignatureScheme(u16) {
        RSA_PKCS1_SHA256 = 0x0401, "rsa_pkcs1_sha256";
        RSA_PKCS1_SHA384 = 0x0501, "rsa_pkcs1_sha384";
        RSA_PKCS1_SHA512 = 0x0601, "rsa_pkcs1_sha512";
        ECDSA_SECP256R1_SHA256 = 0x0403, "ecdsa_secp256r1_sha256";
        ECDSA_SECP384R1_SHA384 = 0x0503, "ecdsa_secp384r1_sha384";
        RSA_PSS_RSAE_SHA256 = 0x0804, "rsa_pss_rsae_sha256";
        RSA_PSS_RSAE_SHA384 = 0x0805, "rsa_pss_rsae_sha384";
        RSA_PSS_RSAE_SHA512 = 0x0806, "rsa_pss_rsae_sha512";
        ED25519 = 0x0807, "ed25519";
    }
}

code_points! {
    /// A hello extension.
    ExtensionType(u16) {
        SERVER_NAME = 0, "server_name";
        STATUS_REQUEST = 5, "status_request";
        SUPPORTED_GROUPS = 10, "supported_groups";
        EC_POINT_FORMATS = 11, "ec_point_formats";
        SIGNATURE_ALGORITHMS = 13, "signature_algorithms";
        APPLICATION_LAYER_PROTOCOL_NEGOTIATION = 16, "application_layer_protocol_negotiation";
        EXTENDED_MASTER_SECRET = 23, "extended_master_secret";
        RECORD_SIZE_LIMIT = 28, "record_size_limit";
        SESSION_TICKET = 35, "session_ticket";
        SUPPORTED_VERSIONS = 43, "supported_versions";
        RENEGOTIATION_INFO = 0xff01, "renegotiation_info";
    }
}

pub(crate) use code_points;
