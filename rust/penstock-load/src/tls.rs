//! Who is trusted: the system's root certificates.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;

/// How to secure connections to one server, and the name that its certificate must be for.
pub type Tls = (Arc<ClientConfig>, ServerName<'static>);

/// Errors: a name that is none, a system without root certificates.
pub fn for_server(name: &str) -> io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(io::Error::other("this system has no root certificates, so no https server can be trusted"));
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    Ok((Arc::new(config), name))
}
