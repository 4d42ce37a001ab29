//! What judges of certificates say of signatures in a handshake.
//!
//! Guarantees: a signature is judged by the library alone: by whatever verifier is in force at that
//! moment, or by the algorithms of a provider.

/// All that a judge says of signatures, by the verifier that its `now()` gives.
macro_rules! signatures_by_verifier {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.now().verify_tls12_signature(message, leaf, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            self.now().verify_tls13_signature(message, leaf, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.now().supported_verify_schemes()
        }
    };
}

/// The same by the algorithms of its `provider`.
macro_rules! signatures_by_provider {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let known = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, leaf, signature, known)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let known = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, leaf, signature, known)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            let known = &self.provider.signature_verification_algorithms;
            known.supported_schemes()
        }
    };
}

pub(crate) use {signatures_by_provider, signatures_by_verifier};
