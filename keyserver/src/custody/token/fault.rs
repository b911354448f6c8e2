//! What goes wrong with tokens, sorted by what is to be done about it.

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use crate::custody::KeyFault;

/// Why an operation in a token was not done. Each has one word, the same in log and metric.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum TokenFault {
    /// All sessions were in use for as long as one may wait.
    #[error("all sessions are in use; raise `sessions`, or `session_wait`")]
    SessionsBusy,
    /// The session, or what it held, is not good any longer. Another is to be opened.
    #[error("the session was lost: {0}")]
    SessionLost(String),
    /// The token cannot be reached.
    #[error("{0}")]
    TokenAway(String),
    /// The token has no such key.
    #[error("the token has no such private key")]
    KeyMissing,
    /// The token has several such keys.
    #[error("the token has several such private keys; give them object_id and object_label that differ")]
    KeyAmbiguous,
    /// The token does not take the PIN. It is not tried again, since tokens lock after a few times.
    #[error(
        "{0}; the PIN is not tried again until the key server restarts, since tokens lock themselves after a few times"
    )]
    PinRefused(String),
    /// The token answers, and fails with this key.
    #[error("the token answers, and fails with this key: {0}")]
    KeyFails(String),
    /// The token does not do what was asked for.
    #[error("{0}")]
    OperationFailed(String),
}

impl TokenFault {
    /// The word by which log and metric name it.
    pub fn reason(&self) -> &'static str {
        self.into()
    }

    /// Whether it may be gone at the next try, with nothing changed in the configuration.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::SessionsBusy | Self::SessionLost(_) | Self::TokenAway(_) | Self::KeyFails(_) => true,
            Self::KeyMissing | Self::KeyAmbiguous | Self::PinRefused(_) | Self::OperationFailed(_) => false,
        }
    }

    /// What it means to whoever uses the key.
    pub(super) fn key_fault(&self) -> KeyFault {
        match self {
            Self::SessionsBusy => KeyFault::TokenBusy,
            Self::SessionLost(_) | Self::TokenAway(_) | Self::KeyMissing | Self::PinRefused(_) | Self::KeyFails(_) => {
                KeyFault::TokenUnavailable
            }
            Self::KeyAmbiguous | Self::OperationFailed(_) => KeyFault::Failed,
        }
    }

    /// What opening a session came to.
    pub(super) fn of_opening(error: &Error) -> Self {
        match cause(error) {
            Some(
                RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked
                | RvError::UserPinNotInitialized,
            ) => Self::PinRefused(text(error)),
            _ => Self::TokenAway(text(error)),
        }
    }
}

/// What an operation came to.
impl From<Error> for TokenFault {
    fn from(error: Error) -> Self {
        match cause(&error) {
            Some(
                RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::UserNotLoggedIn
                | RvError::KeyHandleInvalid
                | RvError::ObjectHandleInvalid
                | RvError::OperationActive
                | RvError::OperationNotInitialized
                | RvError::DeviceError
                | RvError::DeviceMemory
                | RvError::DeviceRemoved
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::SlotIdInvalid
                | RvError::CryptokiNotInitialized
                | RvError::GeneralError
                | RvError::FunctionFailed
                | RvError::FunctionCanceled
                | RvError::HostMemory
                | RvError::VendorDefined(_),
            ) => Self::SessionLost(text(&error)),
            _ => Self::OperationFailed(text(&error)),
        }
    }
}

fn cause(error: &Error) -> Option<RvError> {
    match error {
        Error::Pkcs11(cause, _) => Some(*cause),
        Error::LibraryLoading(_)
        | Error::NotSupported
        | Error::TryFromInt(_)
        | Error::TryFromSlice(_)
        | Error::ParseInt(_)
        | Error::Utf8(_)
        | Error::NulError(_)
        | Error::NullFunctionPointer
        | Error::MissingSymbol(_)
        | Error::InvalidValue
        | Error::PinNotSet => None,
    }
}

/// The library's own text repeats the standard's paragraphs.
pub(super) fn text(error: &Error) -> String {
    if let Error::Pkcs11(cause, function) = error {
        return format!("{}: {cause:?}", name(*function));
    }
    error.to_string()
}

fn name(function: Function) -> String {
    format!("C_{function:?}")
}
