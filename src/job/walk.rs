//! A walk over a YAML text that keeps nothing: how large it is once its aliases are replaced, and where a path is.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Values in one job, at most, aliases replaced.
const MAX_VALUES: usize = 100_000;

/// One step of a path: a key or an index, as text.
pub(super) type Path = [String];

/// Checks that the text is YAML and stays small when its aliases are replaced.
pub(super) fn check_size(text: &str) -> Result<(), serde_yaml::Error> {
    let seen = Cell::new(0);
    Walk { seen: &seen, path: None }.deserialize(serde_yaml::Deserializer::from_str(text))
}

/// Line and column, from 1, of the value at `path`, or of the deepest part of it that is there.
pub(super) fn locate(text: &str, path: &Path) -> Option<(usize, usize)> {
    (0..=path.len()).rev().find_map(|depth| {
        let seen = Cell::new(0);
        let walk = Walk { seen: &seen, path: Some(&path[..depth]) };
        let found = walk.deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
        found.to_string().contains(FOUND).then_some(())?;
        found.location().map(|at| (at.line(), at.column()))
    })
}

/// The message that ends a walk at its target.
const FOUND: &str = "\u{1}found\u{1}";

struct Walk<'a> {
    seen: &'a Cell<usize>,
    /// What is left of the path to the target; `None` off that path.
    path: Option<&'a Path>,
}

impl<'a> Walk<'a> {
    fn scalar<E: Error>(self) -> Result<(), E> {
        self.enter()
    }

    fn enter<E: Error>(&self) -> Result<(), E> {
        if self.path.is_some_and(<[String]>::is_empty) {
            return Err(E::custom(FOUND));
        }
        self.seen.set(self.seen.get() + 1);
        match self.seen.get() > MAX_VALUES {
            true => Err(E::custom(format!("more than {MAX_VALUES} values once its aliases are replaced"))),
            false => Ok(()),
        }
    }

    fn child(&self, key: &str) -> Walk<'a> {
        let path = self.path.and_then(|path| path.split_first()).filter(|(first, _)| *first == key).map(|(_, p)| p);
        Walk { seen: self.seen, path }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list, a text, a number, a boolean or null, without tags")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.scalar()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.enter()?;
        let mut index = 0;
        while items.next_element_seed(self.child(&index.to_string()))?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.enter()?;
        while let Some(key) = entries.next_key::<serde_yaml::Value>()? {
            let key = match &key {
                serde_yaml::Value::String(key) => key.clone(),
                serde_yaml::Value::Null => String::new(),
                serde_yaml::Value::Number(key) => key.to_string(),
                serde_yaml::Value::Bool(key) => key.to_string(),
                _ => return Err(A::Error::custom("keys must be texts")),
            };
            entries.next_value_seed(self.child(&key))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|k| (*k).to_owned()).collect()
    }

    #[test]
    fn values_are_found() {
        let text = "name: a\nbudget:\n  max_drop: x\n  list: [1, 2,\n    3]\n";
        assert_eq!(locate(text, &path(&["name"])), Some((1, 7)));
        assert_eq!(locate(text, &path(&["budget", "max_drop"])), Some((3, 13)));
        assert_eq!(locate(text, &path(&["budget", "list", "2"])), Some((5, 5)));
        assert_eq!(locate(text, &path(&["budget", "confidence"])), Some((3, 3)));
    }

    #[test]
    fn a_text_that_grows_is_refused() {
        let mut text = format!("a: &a [{}]\n", "1,".repeat(500));
        text.push_str(&format!("b: [{}]\n", "*a,".repeat(500)));
        assert!(check_size(&text).unwrap_err().to_string().contains("aliases"));
        assert!(check_size("a: [1, 2]\nb: {c: null}").is_ok());
    }
}
