//! The wire format of protocol buffers: a message is a list of numbered fields.

use crate::weights::Parsed;

/// A field's value.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Number(u64),
    /// A float, or another of four or eight bytes: none is of interest here.
    Other,
    /// A text, bytes, a message, or packed numbers.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The bytes of a field that must have some.
    pub fn bytes(self) -> Parsed<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err("a field of the wrong type".into()),
        }
    }

    /// The value of a field that must be a number.
    pub fn number(self) -> Parsed<u64> {
        match self {
            Value::Number(number) => Ok(number),
            _ => Err("a field of the wrong type".into()),
        }
    }
}

/// The fields of a message, in the order of the file.
pub(super) struct Fields<'a>(&'a [u8]);

/// The fields of a message.
pub(super) fn fields(message: &[u8]) -> Fields<'_> {
    Fields(message)
}

impl<'a> Iterator for Fields<'a> {
    type Item = Parsed<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            // Nothing can be read behind a damaged field.
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "a damaged or truncated field".into()))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = varint(&mut self.0)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut self.0)?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let len = usize::try_from(varint(&mut self.0)?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

/// A number of at most ten bytes, seven bits each.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(7 * at)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Integers of a repeated field, which may come one by one or packed.
pub(super) fn integers(value: Value<'_>, into: &mut Vec<i64>, most: usize) -> Parsed<()> {
    let mut push = |number: u64| {
        if into.len() >= most {
            return Err(format!("a list of more than {most} numbers"));
        }
        into.push(number.cast_signed());
        Ok(())
    };
    match value {
        Value::Number(number) => push(number),
        Value::Bytes(mut bytes) => {
            while !bytes.is_empty() {
                push(varint(&mut bytes).ok_or("a damaged list of numbers")?)?;
            }
            Ok(())
        }
        Value::Other => Err("a list of the wrong type".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_damage_ends_them() {
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f];
        let read: Vec<_> = fields(&message).map(Result::unwrap).collect();
        assert!(matches!(read[0], (1, Value::Number(150))));
        assert!(matches!(read[1], (2, Value::Bytes(b"hi"))));
        assert!(matches!(read[2], (3, Value::Other)));
        for cut in 1..message.len() {
            // Cut between fields is whole; anywhere else it is an error, and the last thing.
            let read: Vec<_> = fields(&message[..cut]).collect();
            let errors = read.iter().filter(|field| field.is_err()).count();
            assert_eq!(errors, usize::from(![3, 7].contains(&cut)), "cut at {cut}");
            assert!(read.last().unwrap().is_err() || errors == 0);
        }
        let forever = [0xff; 11];
        assert!(fields(&forever).next().unwrap().is_err());
        assert!(fields(&[0x0b]).next().unwrap().is_err());
        let huge = [0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert!(fields(&huge).next().unwrap().is_err());
    }
}
