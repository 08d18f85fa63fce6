//! A service on the network that knows the country of an address, as such services are: it is busy now and then, and a
//! part of it is down.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers `GET /<ip>` with a country: 503 when it is first asked for each third address, and always for 203.0.113.* until
/// that is repaired.
pub async fn serve(repaired: Arc<AtomicBool>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let mut asked = HashSet::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let Ok(length) = socket.read(&mut request).await else { continue };
            let request = String::from_utf8_lossy(&request[..length]);
            let ip = request.split([' ', '/']).nth(2).unwrap_or_default().to_owned();
            let (network, host) = ip.rsplit_once('.').unwrap_or_default();
            let busy = asked.insert(ip.clone()) && host.parse::<u8>().is_ok_and(|host| host % 3 == 0);
            let (status, country) = match network {
                _ if busy => ("503 Busy", ""),
                "192.0.2" => ("200 OK", "NL"),
                "198.51.100" => ("200 OK", "DK"),
                "203.0.113" if repaired.load(Ordering::SeqCst) => ("200 OK", "NZ"),
                "203.0.113" => ("503 Down", ""),
                _ => ("404 Not Found", ""),
            };
            let length = country.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{country}");
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    Ok(address)
}
