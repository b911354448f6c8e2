//! Keys as objects of a token: found, made, put in, and read as far as they are public.

use std::fmt;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType as ObjectKeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use keystead_tls::PublicKey;
use pkcs8::EncodePublicKey;
use pkcs8::der::Decode;
use pkcs8::der::asn1::OctetStringRef;
use rsa::traits::{PrivateKeyParts, PublicKeyParts};

use super::TokenFault;
use crate::custody::material::{KeyMaterial, KeyType, Numbers, ed25519_public_key_info};

/// DER of the curves' object identifiers.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// The curve by its name, a PrintableString, which all tokens know (PKCS#11 3.0 §2.3.10).
const EDWARDS25519: [u8; 14] = *b"\x13\x0cedwards25519";

/// By what a key is found in a token: `object_label`, `object_id`, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    label: Option<String>,
    id: Option<Vec<u8>>,
}

impl ObjectName {
    /// From a label and an id in hexadecimal digits.
    ///
    /// # Errors
    /// [`ObjectNameError`] when both are missing, and for an id that is none.
    pub fn new(label: Option<&str>, id: Option<&str>) -> Result<Self, ObjectNameError> {
        let id = id.map(|digits| hexadecimal(digits).ok_or(ObjectNameError::Id)).transpose()?;
        match label.is_none() && id.is_none() {
            true => Err(ObjectNameError::Nameless),
            false => Ok(Self { label: label.map(ToOwned::to_owned), id }),
        }
    }

    /// The same, with this id where it has none.
    pub fn or_id(self, id: Vec<u8>) -> Self {
        Self { id: self.id.or(Some(id)), ..self }
    }

    fn attributes(&self) -> Vec<Attribute> {
        let label = self.label.iter().map(|label| Attribute::Label(label.clone().into_bytes()));
        label.chain(self.id.iter().map(|id| Attribute::Id(id.clone()))).collect()
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(label) = &self.label {
            write!(f, "object_label {label:?}")?;
        }
        let Some(id) = &self.id else { return Ok(()) };
        write!(f, "{}object_id ", if self.label.is_some() { ", " } else { "" })?;
        id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Longer ids are no token's.
const LONGEST_ID: usize = 256;

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok().filter(|_| pair.len() == 2);
    let is_plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    pairs.map(byte).collect::<Option<Vec<u8>>>().filter(|id| is_plain && !id.is_empty() && id.len() <= LONGEST_ID)
}

/// What names no object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectNameError {
    /// Neither label nor id.
    #[error("a key in a token needs object_label, object_id or both")]
    Nameless,
    /// The id is no hexadecimal number.
    #[error("object_id is not hexadecimal digits, two for each byte")]
    Id,
}

/// The one private key of that name.
pub(super) fn find_private(session: &Session, name: &ObjectName) -> Result<ObjectHandle, TokenFault> {
    find(session, ObjectClass::PRIVATE_KEY, name)
}

fn find(session: &Session, class: ObjectClass, name: &ObjectName) -> Result<ObjectHandle, TokenFault> {
    let template = [vec![Attribute::Class(class), Attribute::Token(true)], name.attributes()].concat();
    match session.find_objects(&template)?.as_slice() {
        [] => Err(TokenFault::KeyMissing),
        [one] => Ok(*one),
        [_, ..] => Err(TokenFault::KeyAmbiguous),
    }
}

/// Refuses a name that is taken: a second object of it could not be told from the first.
pub(super) fn check_free(session: &Session, name: &ObjectName) -> Result<(), TokenFault> {
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        match find(session, class, name) {
            Err(TokenFault::KeyMissing) => {}
            Err(fault) => return Err(fault),
            Ok(_) => {
                return Err(TokenFault::OperationFailed(format!("the token has an object with {name} already")));
            }
        }
    }
    Ok(())
}

/// Makes a key pair.
pub(super) fn generate(
    session: &Session,
    key_type: KeyType,
    name: &ObjectName,
    decrypts: bool,
) -> Result<(), TokenFault> {
    let rsa = |bits: u64| {
        let numbers = vec![Attribute::ModulusBits(bits.into()), Attribute::PublicExponent(vec![1, 0, 1])];
        (Mechanism::RsaPkcsKeyPairGen, numbers)
    };
    let (mechanism, numbers) = match key_type {
        KeyType::Rsa2048 => rsa(2048),
        KeyType::Rsa3072 => rsa(3072),
        KeyType::Rsa4096 => rsa(4096),
        KeyType::P256 => (Mechanism::EccKeyPairGen, vec![Attribute::EcParams(P256.to_vec())]),
        KeyType::P384 => (Mechanism::EccKeyPairGen, vec![Attribute::EcParams(P384.to_vec())]),
        KeyType::Ed25519 => (Mechanism::EccEdwardsKeyPairGen, vec![Attribute::EcParams(EDWARDS25519.to_vec())]),
    };
    let public = [name.attributes(), numbers, vec![Attribute::Token(true), Attribute::Verify(true)]].concat();
    let private = [name.attributes(), private_attributes(decrypts)].concat();
    session.generate_key_pair(&mechanism, &public, &private)?;
    Ok(())
}

/// It stays in the token, is used with the PIN alone, and signs; what else it does is asked for.
fn private_attributes(decrypts: bool) -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(decrypts),
    ]
}

/// Puts a key pair in. The library copies the numbers on their way, and does not wipe its copies.
pub(super) fn import(
    session: &Session,
    key: &KeyMaterial,
    name: &ObjectName,
    decrypts: bool,
) -> Result<(), TokenFault> {
    let (key_type, public, private) = key_attributes(key)?;
    let class = |class| vec![Attribute::Class(class), Attribute::KeyType(key_type)];
    let private = [class(ObjectClass::PRIVATE_KEY), name.attributes(), private_attributes(decrypts), private].concat();
    let stored = session.create_object(&private)?;
    let own = vec![Attribute::Token(true), Attribute::Verify(true)];
    let public = [class(ObjectClass::PUBLIC_KEY), name.attributes(), own, public].concat();
    session.create_object(&public).map(drop).map_err(|error| {
        // Half a pair would stand in the way of the next try.
        let _ = session.destroy_object(stored);
        error.into()
    })
}

/// The numbers of the public and of the private object.
fn key_attributes(key: &KeyMaterial) -> Result<(ObjectKeyType, Vec<Attribute>, Vec<Attribute>), TokenFault> {
    Ok(match &key.numbers {
        Numbers::Rsa(rsa) => {
            let bytes = |number: &rsa::BoxedUint| number.to_be_bytes_trimmed_vartime().to_vec();
            let public = vec![Attribute::Modulus(bytes(rsa.n())), Attribute::PublicExponent(bytes(rsa.e()))];
            let [p, q] = rsa.primes() else {
                return Err(TokenFault::OperationFailed("an RSA key with more than two primes".to_owned()));
            };
            let derived = || Some((rsa.dp()?, rsa.dq()?, rsa.crt_coefficient()?));
            let missing = || TokenFault::OperationFailed("an RSA key without its derived numbers".to_owned());
            let (dp, dq, coefficient) = derived().ok_or_else(missing)?;
            let private = vec![
                Attribute::PrivateExponent(bytes(rsa.d())),
                Attribute::Prime1(bytes(p)),
                Attribute::Prime2(bytes(q)),
                Attribute::Exponent1(bytes(dp)),
                Attribute::Exponent2(bytes(dq)),
                Attribute::Coefficient(bytes(&coefficient)),
            ];
            (ObjectKeyType::RSA, public.clone(), [public, private].concat())
        }
        Numbers::P256(secret) => {
            let point = secret.public_key().to_sec1_bytes();
            curve(ObjectKeyType::EC, &P256, &point, secret.to_bytes().to_vec())
        }
        Numbers::P384(secret) => {
            let point = secret.public_key().to_sec1_bytes();
            curve(ObjectKeyType::EC, &P384, &point, secret.to_bytes().to_vec())
        }
        Numbers::Ed25519(secret) => {
            let point = secret.verifying_key().to_bytes();
            curve(ObjectKeyType::EC_EDWARDS, &EDWARDS25519, &point, secret.to_bytes().to_vec())
        }
    })
}

fn curve(
    key_type: ObjectKeyType,
    parameters: &[u8],
    point: &[u8],
    value: Vec<u8>,
) -> (ObjectKeyType, Vec<Attribute>, Vec<Attribute>) {
    const OCTET_STRING: u8 = 4;
    let parameters = Attribute::EcParams(parameters.to_vec());
    // No point of these curves has more than 127 bytes, so that one byte says the length.
    let length = u8::try_from(point.len()).unwrap_or_default();
    let point = [&[OCTET_STRING, length], point].concat();
    (key_type, vec![parameters.clone(), Attribute::EcPoint(point)], vec![parameters, Attribute::Value(value)])
}

/// Reads the public key that goes with the private one of that name: that key, and its SubjectPublicKeyInfo.
pub(super) fn public_key(session: &Session, name: &ObjectName) -> Result<(PublicKey, Vec<u8>), TokenFault> {
    let private = find_private(session, name)?;
    let public = find(session, ObjectClass::PUBLIC_KEY, name);
    let sources = [public.ok(), Some(private)].into_iter().flatten();
    let info = sources.filter_map(|object| subject_public_key_info(session, object)).next();
    let unknown = || {
        TokenFault::OperationFailed(format!(
            "the token has no public key beside the private one with {name}, or one that is not for TLS"
        ))
    };
    let info = info.ok_or_else(unknown)?;
    let key = PublicKey::from_spki_der(&info).map_err(|_| unknown())?;
    Ok((key, info))
}

fn subject_public_key_info(session: &Session, object: ObjectHandle) -> Option<Vec<u8>> {
    let read = |attribute| session.get_attributes(object, &[attribute]).ok()?.into_iter().next();
    let document = match (read(AttributeType::Modulus), read(AttributeType::EcParams)) {
        (Some(Attribute::Modulus(modulus)), _) => {
            let Some(Attribute::PublicExponent(exponent)) = read(AttributeType::PublicExponent) else { return None };
            let number = |bytes: &[u8]| rsa::BoxedUint::from_be_slice_vartime(bytes);
            rsa::PublicKey::new(number(&modulus), number(&exponent)).ok()?.to_public_key_der().ok()?
        }
        (_, Some(Attribute::EcParams(parameters))) => {
            let Some(Attribute::EcPoint(point)) = read(AttributeType::EcPoint) else { return None };
            // Some tokens leave the octet string around it out.
            let point = <&OctetStringRef>::from_der(&point).map_or(point.as_slice(), |inner| inner.as_bytes());
            match parameters.as_slice() {
                curve if curve == P256 => p256::PublicKey::from_sec1_bytes(point).ok()?.to_public_key_der().ok()?,
                curve if curve == P384 => p384::PublicKey::from_sec1_bytes(point).ok()?.to_public_key_der().ok()?,
                _ => return Some(ed25519_public_key_info(point.try_into().ok()?)),
            }
        }
        _ => return None,
    };
    Some(document.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn an_object_is_named_by_label_id_or_both() {
        let name = ObjectName::new(Some("a"), Some("00ff")).unwrap();
        assert_eq!(name.to_string(), "object_label \"a\", object_id 00ff");
        assert_eq!(ObjectName::new(None, Some("0A")).unwrap().to_string(), "object_id 0a");
        assert_eq!(ObjectName::new(None, None), Err(ObjectNameError::Nameless));
        for id in ["", "0", "0g", "+1", "0x10", "ä"] {
            assert_eq!(ObjectName::new(None, Some(id)), Err(ObjectNameError::Id), "{id}");
        }
    }
}
