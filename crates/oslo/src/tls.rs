//! TLS towards the broker, by oslo.messaging's rules.
//!
//! Files are read anew for each connection, so that a renewed certificate is
//! used without a restart.

use std::{path::Path, sync::Arc};

use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};

use crate::options::Tls;

/// What TLS is made with for one connection.
///
/// # Errors
/// Words for an operator: which file, and what is wrong with it.
pub(crate) fn config(tls: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verifier = verifier(tls, &provider)?;
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match (&tls.cert_file, &tls.key_file) {
        (Some(cert_file), key_file) => {
            let certificates = certificates(cert_file, "ssl_cert_file")?;
            // Both may be in one file.
            let key_file = key_file.as_ref().unwrap_or(cert_file);
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| file_error(key_file, "ssl_key_file", &error))?;
            builder
                .with_client_auth_cert(certificates, key)
                .map_err(|error| {
                    format!(
                        "ssl_key_file {} doesn't fit ssl_cert_file {}: {error}",
                        key_file.display(),
                        cert_file.display()
                    )
                })
        }
        (None, Some(_)) => Err("there is an ssl_key_file, but no ssl_cert_file".to_owned()),
        (None, None) => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(path: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| file_error(path, option, &error))?;
    if certificates.is_empty() {
        return Err(format!(
            "{option} {} has no certificate in it",
            path.display()
        ));
    }
    Ok(certificates)
}

fn file_error(path: &Path, option: &str, error: &pem::Error) -> String {
    let reason = match error {
        pem::Error::Io(error) => format!("can't be read: {error}"),
        other => format!("is not PEM: {other}"),
    };
    format!("{option} {} {reason}", path.display())
}

fn verifier(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Arc<Verifier>, String> {
    let Some(path) = &tls.ca_file else {
        return Ok(Arc::new(Verifier {
            chain: None,
            name: false,
            provider: Arc::clone(provider),
        }));
    };
    let mut roots = RootCertStore::empty();
    let (good, bad) = roots.add_parsable_certificates(certificates(path, "ssl_ca_file")?);
    if good == 0 {
        return Err(format!(
            "ssl_ca_file {}: none of its {bad} certificates is one of an authority",
            path.display()
        ));
    }
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| format!("ssl_ca_file {}: {error}", path.display()))?;
    Ok(Arc::new(Verifier {
        chain: Some(chain),
        name: tls.verify_name,
        provider: Arc::clone(provider),
    }))
}

/// As strict as the options say.
#[derive(Debug)]
struct Verifier {
    /// Judges the chain up to an authority; none without `ssl_ca_file`.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Whether the name counts.
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let verdict =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        // The name is judged last: with this error the chain is good.
        let other_name = matches!(
            &verdict,
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
            ))
        );
        if other_name && !self.name {
            return Ok(ServerCertVerified::assertion());
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

/// What an operator may do about a failed handshake.
pub(crate) fn explain(error: &std::io::Error, tls: &Tls) -> String {
    let ca = tls.ca_file.as_deref().unwrap_or(Path::new(""));
    let advice = match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => format!(
            "its certificate is signed by none of the authorities in ssl_ca_file {}",
            ca.display()
        ),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "its certificate is for another name; write that name into transport_url, or \
               ssl_enforce_hostname_verification = false"
            .to_owned(),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => "its certificate has expired".to_owned(),
        Some(rustls::Error::InvalidMessage(_)) => {
            "this port doesn't speak TLS; RabbitMQ's own port for TLS is 5671".to_owned()
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "the broker refuses; if it wants clients' certificates, see ssl_cert_file".to_owned()
        }
        _ => return error.to_string(),
    };
    format!("{error}: {advice}")
}
