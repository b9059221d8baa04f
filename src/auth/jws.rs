//! Parses a token: the compact serialization and its header (RFC 7515 sections 4 and 7.1).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Algorithm;
use super::error::InvalidReason;
use crate::json;

/// A token with an acceptable structure and header. Its signature is not verified yet.
#[derive(Debug)]
pub(crate) struct Jws<'a> {
    pub(crate) header: JoseHeader,
    /// The signed text: encoded header, dot, encoded payload, as sent.
    pub(crate) message: &'a str,
    payload: &'a str,
    /// Base64url, not decoded.
    pub(crate) signature: &'a str,
}

/// The header members that are used. Members that carry or point to keys (`jwk`, `jku`, `x5c`, `x5t`, `x5u`) are
/// ignored.
#[derive(Debug)]
pub(crate) struct JoseHeader {
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: Option<String>,
    /// In lower case, without `application/` (RFC 7515 section 4.1.9).
    pub(crate) typ: Option<String>,
}

impl<'a> Jws<'a> {
    /// Parses a compact JWS: exactly three parts, strict base64url, a strict header.
    pub(crate) fn parse(token: &'a str) -> Result<Self, InvalidReason> {
        let (message, signature) = token.rsplit_once('.').ok_or(InvalidReason::Structure)?;
        let (header, payload) = message.split_once('.').ok_or(InvalidReason::Structure)?;
        if [header, payload, signature].iter().any(|part| part.is_empty() || part.contains('.')) {
            return Err(InvalidReason::Structure);
        }
        Ok(Self { header: JoseHeader::parse(header)?, message, payload, signature })
    }

    /// Parses the payload. Its members prove nothing before the signature is verified.
    pub(crate) fn unverified_claims(&self) -> Result<Map<String, Value>, InvalidReason> {
        json::parse_object(&decode(self.payload)?).map_err(|_| InvalidReason::Payload)
    }
}

impl JoseHeader {
    fn parse(encoded: &str) -> Result<Self, InvalidReason> {
        let members = json::parse_object(&decode(encoded)?).map_err(|_| InvalidReason::Header)?;
        // Each of these changes the meaning of the signed bytes, and none is implemented (RFC 7515 section 4.1.11,
        // RFC 7797, RFC 7516 section 4.1, RFC 7519 section 5.2).
        for (name, reason) in [
            ("b64", InvalidReason::UnencodedPayload),
            ("crit", InvalidReason::Critical),
            ("cty", InvalidReason::Nested),
            ("enc", InvalidReason::Encrypted),
            ("zip", InvalidReason::Compressed),
        ] {
            if members.contains_key(name) {
                return Err(reason);
            }
        }
        let name = members.get("alg").and_then(Value::as_str).ok_or(InvalidReason::Algorithm)?;
        Ok(Self {
            algorithm: name.parse().map_err(|_| InvalidReason::Algorithm)?,
            kid: optional_text(&members, "kid").ok_or(InvalidReason::KeyId)?.map(str::to_owned),
            typ: optional_text(&members, "typ").ok_or(InvalidReason::Type)?.map(media_type),
        })
    }
}

/// Reads an optional string member: `Some(None)` if it is absent, `None` if it is not a string.
fn optional_text<'m>(members: &'m Map<String, Value>, name: &str) -> Option<Option<&'m str>> {
    match members.get(name) {
        None => Some(None),
        Some(value) => value.as_str().map(Some),
    }
}

fn media_type(typ: &str) -> String {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").map(str::to_owned).unwrap_or(typ)
}

/// Decodes base64url without padding; trailing bits must be zero (RFC 7515 section 2).
fn decode(part: &str) -> Result<Vec<u8>, InvalidReason> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| InvalidReason::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_header(text: &str) -> Result<JoseHeader, InvalidReason> {
        let token = format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(text));
        Jws::parse(&token).map(|jws| jws.header)
    }

    #[test]
    fn a_plain_header_is_read() {
        let header = parse_header(r#"{"alg":"ES256","kid":"k","typ":"application/AT+JWT","x":[1]}"#).unwrap();
        assert_eq!(header.algorithm, Algorithm::Es256);
        assert_eq!(header.kid.as_deref(), Some("k"));
        assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    }

    #[test]
    fn t1_only_exact_names_of_known_algorithms_are_accepted() {
        let algorithms = [
            r#""none""#,
            r#""None""#,
            r#""NONE""#,
            r#""nOnE""#,
            r#""""#,
            r#""es256""#,
            r#""ES256 ""#,
            r#""ES256K""#,
            r#""ES512""#,
            r#""HS384K""#,
            r#""RSA1_5""#,
            "256",
            "null",
            r#"["ES256"]"#,
            r#"{"a":1}"#,
        ];
        for alg in algorithms {
            let result = parse_header(&format!(r#"{{"alg":{alg}}}"#));
            assert_eq!(result.unwrap_err(), InvalidReason::Algorithm, "{alg}");
        }
        assert_eq!(parse_header("{}").unwrap_err(), InvalidReason::Algorithm);
    }

    #[test]
    fn t5_members_that_carry_or_point_to_keys_are_not_read() {
        let text = r#"{"alg":"ES256","jwk":{"kty":"oct","k":"AA"},"jku":"http://127.0.0.1:1/","x5u":"http://127.0.0.1:1/",
            "x5c":["AA"],"x5t":"AA","x5t#S256":"AA"}"#;
        let header = parse_header(text).unwrap();
        assert_eq!(header.kid, None);
    }

    #[test]
    fn t6_a_kid_must_be_a_string() {
        for kid in ["7", "null", "[]", "{}", "true"] {
            let result = parse_header(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#));
            assert_eq!(result.unwrap_err(), InvalidReason::KeyId, "{kid}");
        }
        assert_eq!(parse_header(r#"{"alg":"ES256","kid":"a","kid":"b"}"#).unwrap_err(), InvalidReason::Header);
    }

    #[test]
    fn t7_extensions_that_change_the_meaning_are_rejected() {
        for (member, reason) in [
            (r#""crit":["exp"],"exp":1"#, InvalidReason::Critical),
            (r#""crit":[]"#, InvalidReason::Critical),
            (r#""b64":false"#, InvalidReason::UnencodedPayload),
            (r#""b64":true"#, InvalidReason::UnencodedPayload),
            (r#""zip":"DEF""#, InvalidReason::Compressed),
            (r#""enc":"A128GCM""#, InvalidReason::Encrypted),
            (r#""cty":"JWT""#, InvalidReason::Nested),
        ] {
            let result = parse_header(&format!(r#"{{"alg":"ES256",{member}}}"#));
            assert_eq!(result.unwrap_err(), reason, "{member}");
        }
    }

    #[test]
    fn t8_a_token_has_exactly_three_parts_and_none_is_empty() {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
        let tokens = ["", "a", "a.b", "a.b.c.d", "a.b.c.d.e", "..", "a..c", "a.b.", ".b.c", r#"{"payload":"e30"}"#];
        for token in tokens {
            let token = token.replace('a', &header);
            assert_eq!(Jws::parse(&token).unwrap_err(), InvalidReason::Structure, "{token}");
        }
        assert!(Jws::parse(&format!("{header}.e30.AA")).is_ok());
    }

    #[test]
    fn t8_base64url_is_canonical_and_unpadded() {
        // 16 bytes: the last character of the encoding carries unused bits.
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"} "#);
        let (body, last) = header.split_at(header.len() - 1);
        let loose = char::from(last.as_bytes()[0] + 1);
        for wrong in [format!("{body}{loose}"), format!("{header}=="), format!("{header}\n"), format!("+{header}")] {
            assert_eq!(Jws::parse(&format!("{wrong}.e30.AA")).unwrap_err(), InvalidReason::Encoding, "{wrong}");
        }
    }

    #[test]
    fn t9_a_type_must_be_a_string() {
        assert_eq!(parse_header(r#"{"alg":"ES256","typ":1}"#).unwrap_err(), InvalidReason::Type);
    }
}
