//! The alert protocol (RFC 5246 §7.2).

use crate::code_point::code_points;
use crate::error::{Error, InvalidMessage, PeerMisbehaved};

code_points! {
    /// How grave an alert is.
    AlertLevel(u8) {
        WARNING = 1, "warning";
        FATAL = 2, "fatal";
    }
}

code_points! {
    /// What an alert says (RFC 5246 §7.2; later ones from the registry).
    AlertDescription(u8) {
        CLOSE_NOTIFY = 0, "close_notify";
        UNEXPECTED_MESSAGE = 10, "unexpected_message";
        BAD_RECORD_MAC = 20, "bad_record_mac";
        RECORD_OVERFLOW = 22, "record_overflow";
        DECOMPRESSION_FAILURE = 30, "decompression_failure";
        HANDSHAKE_FAILURE = 40, "handshake_failure";
        BAD_CERTIFICATE = 42, "bad_certificate";
        UNSUPPORTED_CERTIFICATE = 43, "unsupported_certificate";
        CERTIFICATE_REVOKED = 44, "certificate_revoked";
        CERTIFICATE_EXPIRED = 45, "certificate_expired";
        CERTIFICATE_UNKNOWN = 46, "certificate_unknown";
        ILLEGAL_PARAMETER = 47, "illegal_parameter";
        UNKNOWN_CA = 48, "unknown_ca";
        ACCESS_DENIED = 49, "access_denied";
        DECODE_ERROR = 50, "decode_error";
        DECRYPT_ERROR = 51, "decrypt_error";
        PROTOCOL_VERSION = 70, "protocol_version";
        INSUFFICIENT_SECURITY = 71, "insufficient_security";
        INTERNAL_ERROR = 80, "internal_error";
        INAPPROPRIATE_FALLBACK = 86, "inappropriate_fallback";
        USER_CANCELED = 90, "user_canceled";
        NO_RENEGOTIATION = 100, "no_renegotiation";
        UNSUPPORTED_EXTENSION = 110, "unsupported_extension";
        UNRECOGNIZED_NAME = 112, "unrecognized_name";
        BAD_CERTIFICATE_STATUS_RESPONSE = 113, "bad_certificate_status_response";
        NO_APPLICATION_PROTOCOL = 120, "no_application_protocol";
    }
}

/// One alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// How grave it is.
    pub level: AlertLevel,
    /// What it says.
    pub description: AlertDescription,
}

impl Alert {
    /// An alert that ends the connection.
    pub const fn fatal(description: AlertDescription) -> Self {
        Self { level: AlertLevel::FATAL, description }
    }

    /// An alert after which the connection may go on.
    pub const fn warning(description: AlertDescription) -> Self {
        Self { level: AlertLevel::WARNING, description }
    }

    /// The two bytes of the wire.
    pub const fn encode(self) -> [u8; 2] {
        [self.level.0, self.description.0]
    }
}

/// Warnings in a row that are let pass.
const WARNINGS: u8 = 4;

/// Reads the client's alerts and bounds its warnings.
#[derive(Debug, Default)]
pub(crate) struct AlertReader {
    warnings_in_a_row: u8,
}

/// What a record of alerts came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Nothing that ends the connection.
    Warning,
    /// The client sends nothing more.
    CloseNotify,
}

impl AlertReader {
    /// Another kind of record came.
    pub(crate) fn reset(&mut self) {
        self.warnings_in_a_row = 0;
    }

    /// Takes the alerts of one record.
    pub(crate) fn read(&mut self, payload: &[u8]) -> Result<Heard, Error> {
        let (alerts, rest) = payload.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(InvalidMessage::MalformedAlert.into());
        }
        for &[level, description] in alerts {
            let (level, description) = (AlertLevel(level), AlertDescription(description));
            match level {
                AlertLevel::WARNING | AlertLevel::FATAL if description == AlertDescription::CLOSE_NOTIFY => {
                    return Ok(Heard::CloseNotify);
                }
                AlertLevel::WARNING => self.warnings_in_a_row += 1,
                AlertLevel::FATAL => return Err(Error::PeerAlert(description)),
                _ => return Err(PeerMisbehaved::UnknownAlertLevel.into()),
            }
            if self.warnings_in_a_row > WARNINGS {
                return Err(PeerMisbehaved::TooManyWarnings.into());
            }
        }
        Ok(Heard::Warning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_told_apart() {
        let read = |payload: &[u8]| AlertReader::default().read(payload);
        assert_eq!(read(&[1, 0]), Ok(Heard::CloseNotify));
        assert_eq!(read(&[2, 0]), Ok(Heard::CloseNotify));
        assert_eq!(read(&[1, 90]), Ok(Heard::Warning));
        assert_eq!(read(&[1, 90, 1, 0]), Ok(Heard::CloseNotify));
        assert_eq!(read(&[2, 48]), Err(Error::PeerAlert(AlertDescription::UNKNOWN_CA)));
        assert_eq!(read(&[3, 0]), Err(PeerMisbehaved::UnknownAlertLevel.into()));
        assert_eq!(read(&[1]), Err(InvalidMessage::MalformedAlert.into()));
        assert_eq!(read(&[1, 90, 1]), Err(InvalidMessage::MalformedAlert.into()));
    }

    #[test]
    fn warnings_in_a_row_are_bounded() {
        let mut reader = AlertReader::default();
        for _ in 0..2 {
            assert_eq!(reader.read(&[1, 90].repeat(4)), Ok(Heard::Warning));
            reader.reset();
        }
        assert_eq!(reader.read(&[1, 90].repeat(5)), Err(PeerMisbehaved::TooManyWarnings.into()));
    }
}
