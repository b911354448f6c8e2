use super::*;
#[derive(Debug)]
pub(super) struct Portable;
#[allow(unused)]
impl Provider for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }
    fn record_cipher(&self, aead: Aead, key: &[u8]) -> Box<dyn RecordCipher> {
        unimplemented!()
    }
    fn key_pair(&self, group: NamedGroup, rng: &mut dyn CryptoRng) -> Option<Box<dyn KeyPair>> {
        unimplemented!()
    }
    fn check_public(&self, group: NamedGroup, public: &[u8]) -> Result<(), InvalidPoint> {
        unimplemented!()
    }
    fn verify(
        &self,
        scheme: SignatureScheme,
        key: &PublicKey,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        unimplemented!()
    }
}
