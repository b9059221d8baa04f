//! Questions to a service.

use std::sync::Arc;

/// A request to a service. Two requests share a cached answer only if they are equal, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// What is asked.
    pub kind: Kind,
    /// The JSON object to send: subject, action, resource and context. The same values always give the same bytes.
    pub body: Vec<u8>,
}

/// What a question asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Whether a subject may do something with a resource (AuthZEN section 6).
    Evaluation,
    /// The ids of all resources of this type with which a subject may do something (AuthZEN section 8).
    Search(Arc<str>),
}

impl Question {
    /// Returns the body that asks for the page after `token`.
    pub(super) fn page(&self, token: &str) -> Vec<u8> {
        let page = serde_json::json!({ "token": token });
        let mut body = self.body.strip_suffix(b"}").unwrap_or_default().to_vec();
        body.extend_from_slice(format!(r#","page":{page}}}"#).as_bytes());
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_repeats_the_question_with_the_token() {
        let question = Question { kind: Kind::Search("doc".into()), body: br#"{"resource":{"type":"doc"}}"#.to_vec() };
        let page: serde_json::Value = serde_json::from_slice(&question.page("a\"b")).unwrap();
        assert_eq!(page, serde_json::json!({ "resource": { "type": "doc" }, "page": { "token": "a\"b" } }));
    }
}
