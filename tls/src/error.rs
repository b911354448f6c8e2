//! Why a connection ended, by who is guilty of it, and the one alert that each cause is answered with.

use strum::IntoStaticStr;

use crate::alert::AlertDescription;

/// Why a connection ended. Every one is fatal; the alert that answers it is already in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not what the RFC says they look like.
    #[error("malformed message: {}", .0.reason())]
    InvalidMessage(InvalidMessage),
    /// The message is well formed, and nothing both sides support is in it.
    #[error("incompatible client: {}", .0.reason())]
    PeerIncompatible(PeerIncompatible),
    /// The message is well formed, and the client may not send it, or not at this point.
    #[error("misbehaving client: {}", .0.reason())]
    PeerMisbehaved(PeerMisbehaved),
    /// The client's certificate does not let it in.
    #[error("client certificate: {}", .0.reason())]
    ClientCertificate(ClientCertificateRefusal),
    /// The client ended the connection.
    #[error("client ended the connection: {}", .0.reason())]
    PeerClosed(PeerClosed),
    /// The client ended the connection with this fatal alert.
    #[error("client sent the alert {0}")]
    PeerAlert(AlertDescription),
    /// The key server failed, or answered with what cannot be used.
    #[error("key server: {}", .0.reason())]
    KeyServer(KeyServerFailure),
    /// This side cannot or will not go on.
    #[error("own failure: {}", .0.reason())]
    Local(LocalFailure),
}

/// Who is to blame for an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum Fault {
    /// The client.
    Client,
    /// The key server.
    KeyServer,
    /// This program or its configuration.
    Own,
}

macro_rules! reasons {
    ($($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident => $alert:expr,)+ })+) => {$(
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, strum::EnumIter)]
        #[strum(serialize_all = "snake_case")]
        $(#[$meta])*
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// The word by which log and metric name this cause.
            pub fn reason(self) -> &'static str {
                self.into()
            }

            fn alert(self) -> Option<AlertDescription> {
                match self {
                    $(Self::$variant => $alert,)+
                }
            }
        }
    )+};
}

const CLOSE_NOTIFY: Option<AlertDescription> = Some(AlertDescription::CLOSE_NOTIFY);
const DECODE_ERROR: Option<AlertDescription> = Some(AlertDescription::DECODE_ERROR);
const DECRYPT_ERROR: Option<AlertDescription> = Some(AlertDescription::DECRYPT_ERROR);
const HANDSHAKE_FAILURE: Option<AlertDescription> = Some(AlertDescription::HANDSHAKE_FAILURE);
const ILLEGAL_PARAMETER: Option<AlertDescription> = Some(AlertDescription::ILLEGAL_PARAMETER);
const INTERNAL_ERROR: Option<AlertDescription> = Some(AlertDescription::INTERNAL_ERROR);
const PROTOCOL_VERSION: Option<AlertDescription> = Some(AlertDescription::PROTOCOL_VERSION);
const UNEXPECTED_MESSAGE: Option<AlertDescription> = Some(AlertDescription::UNEXPECTED_MESSAGE);

reasons! {
    /// What is malformed.
    InvalidMessage {
        /// A field ends before its length is reached, or the message before its fields.
        Truncated => DECODE_ERROR,
        /// Bytes follow the last field.
        TrailingBytes => DECODE_ERROR,
        /// A list whose length is no multiple of its items'.
        OddListLength => DECODE_ERROR,
        /// A list that may not be empty.
        EmptyList => DECODE_ERROR,
        /// A field whose length is outside the RFC's bounds.
        WrongLength => DECODE_ERROR,
        /// A handshake message longer than any that may come here.
        MessageTooLarge => DECODE_ERROR,
        /// An alert of another length than two bytes (RFC 5246 §7.2).
        MalformedAlert => DECODE_ERROR,
        /// A ChangeCipherSpec other than the one byte 1 (RFC 5246 §7.1).
        MalformedChangeCipherSpec => DECODE_ERROR,
        /// A record longer than RFC 5246 §6.2 allows.
        RecordOverflow => Some(AlertDescription::RECORD_OVERFLOW),
        /// A content type that is none (RFC 5246 §6).
        UnknownContentType => UNEXPECTED_MESSAGE,
        /// A record whose version is not SSL 3 or TLS (RFC 5246 appendix E.1), or changes after negotiation.
        WrongRecordVersion => PROTOCOL_VERSION,
        /// A server_name of other bytes than a DNS name's (RFC 6066 §3).
        InvalidServerName => ILLEGAL_PARAMETER,
        /// Two extensions of one type (RFC 5246 §7.4.1.4).
        DuplicateExtension => ILLEGAL_PARAMETER,
    }

    /// What the two sides do not share.
    PeerIncompatible {
        /// An SSL 2 ClientHello (RFC 5246 appendix E.2).
        Sslv2Hello => PROTOCOL_VERSION,
        /// HTTP without TLS.
        PlainHttp => UNEXPECTED_MESSAGE,
        /// First bytes that are no TLS record.
        NotTls => UNEXPECTED_MESSAGE,
        /// The client's newest version is older than TLS 1.2.
        VersionTooOld => PROTOCOL_VERSION,
        /// The client's supported_versions leaves TLS 1.2 out.
        VersionTooNew => PROTOCOL_VERSION,
        /// TLS_FALLBACK_SCSV with an older version than this side's (RFC 7507 §3).
        InappropriateFallback => Some(AlertDescription::INAPPROPRIATE_FALLBACK),
        /// No cipher suite in common.
        NoCommonSuite => HANDSHAKE_FAILURE,
        /// No group in common.
        NoCommonGroup => HANDSHAKE_FAILURE,
        /// No signature scheme in common.
        NoCommonScheme => HANDSHAKE_FAILURE,
        /// Suites are in common, and no certificate fits any of them.
        NoSuitableCertificate => HANDSHAKE_FAILURE,
        /// No application protocol in common (RFC 7301 §3.2).
        NoCommonAlpn => Some(AlertDescription::NO_APPLICATION_PROTOCOL),
        /// No virtual host has the name the client asked for (RFC 6066 §3).
        UnrecognizedName => Some(AlertDescription::UNRECOGNIZED_NAME),
    }

    /// What the client may not do.
    PeerMisbehaved {
        /// A handshake message out of order (RFC 5246 §7.3).
        UnexpectedHandshakeMessage => UNEXPECTED_MESSAGE,
        /// A record of a content type that may not come at this point.
        UnexpectedContentType => UNEXPECTED_MESSAGE,
        /// A ChangeCipherSpec before the keys are agreed on, or a second one (CVE-2014-0224).
        EarlyChangeCipherSpec => UNEXPECTED_MESSAGE,
        /// Another record in the middle of a handshake message, or a key change there.
        InterleavedHandshake => UNEXPECTED_MESSAGE,
        /// A handshake, alert or ChangeCipherSpec record without content (RFC 5246 §6.2.1).
        EmptyFragment => UNEXPECTED_MESSAGE,
        /// More empty application data records in a row than a client has reason to send.
        TooManyEmptyFragments => UNEXPECTED_MESSAGE,
        /// More warnings in a row than a client has reason to send.
        TooManyWarnings => UNEXPECTED_MESSAGE,
        /// Renegotiation tried again and again after each refusal.
        TooManyRenegotiations => UNEXPECTED_MESSAGE,
        /// An alert of no known level.
        UnknownAlertLevel => ILLEGAL_PARAMETER,
        /// A list of compression methods without null (RFC 5246 §7.4.1.2).
        NoNullCompression => ILLEGAL_PARAMETER,
        /// A list of point formats without uncompressed (RFC 8422 §5.1.2).
        NoUncompressedPoints => ILLEGAL_PARAMETER,
        /// A record_size_limit below 64 (RFC 8449 §4).
        RecordSizeLimitTooSmall => ILLEGAL_PARAMETER,
        /// Two server names of one type (RFC 6066 §3).
        DuplicateServerName => ILLEGAL_PARAMETER,
        /// A renegotiation_info that is not empty in a first handshake (RFC 5746 §3.6).
        NonEmptyRenegotiationInfo => HANDSHAKE_FAILURE,
        /// A public value off the curve, of the wrong length or form, or with an all-zero result (RFC 8422 §5.11).
        InvalidKeyShare => ILLEGAL_PARAMETER,
        /// A record whose tag does not verify.
        BadRecordMac => Some(AlertDescription::BAD_RECORD_MAC),
        /// A CertificateVerify whose signature does not verify (RFC 5246 §7.4.8).
        WrongCertificateVerify => DECRYPT_ERROR,
        /// A CertificateVerify by a scheme that was not offered (RFC 5246 §7.4.8).
        SchemeNotOffered => ILLEGAL_PARAMETER,
        /// A pre-master secret or Finished by RSA key transport that the key server refuses. There is one such cause,
        /// and one alert, so that nothing tells one malformed pre-master secret from another (RFC 5246 §7.4.7.1).
        KeyTransportRefused => Some(AlertDescription::BAD_RECORD_MAC),
        /// A session that had extended_master_secret, offered without (RFC 7627 §5.3).
        ExtendedMasterSecretDropped => HANDSHAKE_FAILURE,
        /// A Finished whose verify_data is wrong (RFC 5246 §7.4.9).
        WrongFinished => DECRYPT_ERROR,
    }

    /// Why a client's certificate does not let it in (RFC 5246 §7.2.2).
    #[strum(prefix = "certificate_")]
    ClientCertificateRefusal {
        /// None was sent where the virtual host requires one (RFC 5246 §7.4.6).
        Missing => HANDSHAKE_FAILURE,
        /// It does not parse, or its chain does not verify.
        Bad => Some(AlertDescription::BAD_CERTIFICATE),
        /// Its key or its use is of another kind than can serve here.
        Unsupported => Some(AlertDescription::UNSUPPORTED_CERTIFICATE),
        /// Its issuer revoked it.
        Revoked => Some(AlertDescription::CERTIFICATE_REVOKED),
        /// It is outside its time of validity.
        Expired => Some(AlertDescription::CERTIFICATE_EXPIRED),
        /// No authority of the virtual host's issued it.
        UnknownCa => Some(AlertDescription::UNKNOWN_CA),
        /// It is sound, and none of the virtual host's rules lets it in.
        AccessDenied => Some(AlertDescription::ACCESS_DENIED),
    }

    /// How the client left.
    PeerClosed {
        /// Without sending a byte: a probe.
        NothingSent => None,
        /// With a close_notify before the handshake was complete.
        ClosedInHandshake => CLOSE_NOTIFY,
        /// Without a close_notify: what came may not be all (RFC 5246 §7.2.1).
        #[strum(serialize = "connection_truncated")]
        Truncated => None,
        /// By silence: it took longer than the caller allows.
        TimedOut => CLOSE_NOTIFY,
    }

    /// What went wrong with the key server.
    KeyServerFailure {
        /// No key server could be reached.
        Unreachable => INTERNAL_ERROR,
        /// No answer came in time.
        NoAnswer => INTERNAL_ERROR,
        /// It does not let this edge use this key.
        NotAuthorised => INTERNAL_ERROR,
        /// It cannot use this one key at this moment, as when the token that holds it is away.
        KeyUnavailable => INTERNAL_ERROR,
        /// It does not let this edge use this key for the name that the client asks for (RFC 6066 §3).
        NameNotAllowed => Some(AlertDescription::UNRECOGNIZED_NAME),
        /// It refused the request for another cause.
        Refused => INTERNAL_ERROR,
        /// Its queue was full.
        Overloaded => INTERNAL_ERROR,
        /// A signature that does not verify with the certificate's key.
        WrongSignature => INTERNAL_ERROR,
    }

    /// Why this side gave up.
    LocalFailure {
        /// The virtual host has no certificate at this moment.
        NoIdentity => INTERNAL_ERROR,
        /// The generator gave no ephemeral key.
        NoKeyPair => INTERNAL_ERROR,
        /// No backend could be reached. The client may come back to its session, as it may not after a fatal alert.
        BackendUnreachable => CLOSE_NOTIFY,
        /// What the revocation lists at hand do not tell: whether a client's certificate stands.
        RevocationUnknown => INTERNAL_ERROR,
        /// The verification of a client's certificate did not come to its end in time.
        NoVerdict => INTERNAL_ERROR,
        /// So many records under one key that its AEAD protects no more (RFC 8446 §5.5).
        KeyExhausted => INTERNAL_ERROR,
    }
}

impl Error {
    /// The word by which log and metric name this cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidMessage(cause) => cause.reason(),
            Self::PeerIncompatible(cause) => cause.reason(),
            Self::PeerMisbehaved(cause) => cause.reason(),
            Self::ClientCertificate(cause) => cause.reason(),
            Self::PeerClosed(cause) => cause.reason(),
            Self::PeerAlert(_) => "peer_alert",
            Self::KeyServer(cause) => cause.reason(),
            Self::Local(cause) => cause.reason(),
        }
    }

    /// Who is to blame.
    pub fn fault(self) -> Fault {
        match self {
            Self::InvalidMessage(_)
            | Self::PeerIncompatible(_)
            | Self::PeerMisbehaved(_)
            | Self::ClientCertificate(_)
            | Self::PeerClosed(_)
            | Self::PeerAlert(_)
            // Clients ask for what name they like.
            | Self::KeyServer(KeyServerFailure::NameNotAllowed) => Fault::Client,
            Self::KeyServer(_) => Fault::KeyServer,
            Self::Local(_) => Fault::Own,
        }
    }

    /// Whether a fatal alert ends the connection, the client's or this side's: its session must not be gone on from then
    /// (RFC 5246 §7.2.2).
    pub fn is_fatal_alert(self) -> bool {
        let sends_one = self.alert().is_some_and(|alert| alert != AlertDescription::CLOSE_NOTIFY);
        matches!(self, Self::PeerAlert(_)) || sends_one
    }

    /// The alert that answers this cause; `None` where nobody is left to read one.
    pub fn alert(self) -> Option<AlertDescription> {
        match self {
            Self::InvalidMessage(cause) => cause.alert(),
            Self::PeerIncompatible(cause) => cause.alert(),
            Self::PeerMisbehaved(cause) => cause.alert(),
            Self::ClientCertificate(cause) => cause.alert(),
            Self::PeerClosed(cause) => cause.alert(),
            Self::PeerAlert(_) => None,
            Self::KeyServer(cause) => cause.alert(),
            Self::Local(cause) => cause.alert(),
        }
    }
}

macro_rules! from_cause {
    ($($cause:ident => $variant:ident),+ $(,)?) => {$(
        impl From<$cause> for Error {
            fn from(cause: $cause) -> Self {
                Self::$variant(cause)
            }
        }
    )+};
}

from_cause! {
    InvalidMessage => InvalidMessage,
    PeerIncompatible => PeerIncompatible,
    PeerMisbehaved => PeerMisbehaved,
    ClientCertificateRefusal => ClientCertificate,
    PeerClosed => PeerClosed,
    KeyServerFailure => KeyServer,
    LocalFailure => Local,
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;

    #[test]
    fn every_cause_has_a_word_of_its_own() {
        let mut reasons: Vec<_> = InvalidMessage::iter()
            .map(InvalidMessage::reason)
            .chain(PeerIncompatible::iter().map(PeerIncompatible::reason))
            .chain(PeerMisbehaved::iter().map(PeerMisbehaved::reason))
            .chain(ClientCertificateRefusal::iter().map(ClientCertificateRefusal::reason))
            .chain(PeerClosed::iter().map(PeerClosed::reason))
            .chain(KeyServerFailure::iter().map(KeyServerFailure::reason))
            .chain(LocalFailure::iter().map(LocalFailure::reason))
            .chain([Error::PeerAlert(AlertDescription::UNKNOWN_CA).reason()])
            .collect();
        let all = reasons.len();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), all);
    }
}
