//! Who is trusted: the system's root certificates, and those that are given.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;

/// How to secure connections to one server, and the name that its certificate must be for.
pub type Tls = (Arc<ClientConfig>, ServerName<'static>);

/// `authorities`: certificates in PEM to be trusted beside the system's. Errors: a name that is none, certificates that
/// can't be read, nobody to trust.
pub fn for_server(name: &str, authorities: Option<&[u8]>) -> io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = authorities {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
        if roots.len() == before {
            return Err(io::Error::other("there is no certificate in PEM in it"));
        }
    }
    if roots.is_empty() {
        return Err(io::Error::other(
            "this system has no root certificates, so no https server can be trusted; name a file of them",
        ));
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    Ok((Arc::new(config), name))
}
