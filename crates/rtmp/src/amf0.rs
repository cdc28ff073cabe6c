//! Action Message Format 0 (AMF 0 specification, file-format version 0, 2007), as commands and metadata use it.

/// Objects and arrays within each other. Commands nest two deep, metadata three.
pub const DEPTH_MAX: usize = 16;

/// Values in one message, whatever their nesting; metadata has some dozens.
pub const ELEMENTS_MAX: usize = 1024;

/// Why bytes are no AMF0 value, or one that we do not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmfError {
    /// It ends in the middle of a value.
    #[error("an AMF value is cut short")]
    Truncated,
    /// A marker that is reserved or unknown.
    #[error("a marker that AMF0 does not have")]
    Marker,
    /// AMF3 behind the avmplus marker.
    #[error("AMF3 values are not read")]
    Amf3,
    /// Deeper than [`DEPTH_MAX`].
    #[error("AMF values nested deeper than {DEPTH_MAX}")]
    Depth,
    /// More than [`ELEMENTS_MAX`].
    #[error("more than {ELEMENTS_MAX} AMF values")]
    Elements,
}

impl AmfError {
    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Truncated => "amf_truncated",
            Self::Marker => "amf_marker",
            Self::Amf3 => "amf_amf3",
            Self::Depth => "amf_depth",
            Self::Elements => "amf_elements",
        }
    }
}

/// An AMF0 value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Number.
    Number(f64),
    /// Boolean.
    Boolean(bool),
    /// String, long string or XML document; what is not UTF-8 is replaced.
    String(String),
    /// Object, or typed object without its class name, in the order of its properties.
    Object(Vec<(String, Value)>),
    /// ECMA array.
    EcmaArray(Vec<(String, Value)>),
    /// Strict array.
    StrictArray(Vec<Value>),
    /// Milliseconds since 1970; the time zone is reserved and not read.
    Date(f64),
    /// Null.
    Null,
    /// Undefined, unsupported, or a reference to an earlier object, which no encoder sends.
    Undefined,
}

const NUMBER: u8 = 0;
const BOOLEAN: u8 = 1;
const STRING: u8 = 2;
const OBJECT: u8 = 3;
const NULL: u8 = 5;
const UNDEFINED: u8 = 6;
const REFERENCE: u8 = 7;
const ECMA_ARRAY: u8 = 8;
const OBJECT_END: u8 = 9;
const STRICT_ARRAY: u8 = 10;
const DATE: u8 = 11;
const LONG_STRING: u8 = 12;
const UNSUPPORTED: u8 = 13;
const XML_DOCUMENT: u8 = 15;
const TYPED_OBJECT: u8 = 16;
const AVMPLUS_OBJECT: u8 = 17;

impl Value {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub const fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The first property of that name, if it is an object or ECMA array.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(properties) | Self::EcmaArray(properties) => {
                properties.iter().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// An object from its properties.
    pub fn object<const N: usize>(properties: [(&str, Self); N]) -> Self {
        Self::Object(properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// Appends the encoded value.
    pub fn write(&self, output: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                output.push(NUMBER);
                output.extend_from_slice(&number.to_be_bytes());
            }
            Self::Boolean(boolean) => output.extend_from_slice(&[BOOLEAN, u8::from(*boolean)]),
            Self::String(text) => match u16::try_from(text.len()) {
                Ok(_) => {
                    output.push(STRING);
                    write_text(text, output);
                }
                Err(_) => {
                    output.push(LONG_STRING);
                    output.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
                    output.extend_from_slice(text.as_bytes());
                }
            },
            Self::Object(properties) => {
                output.push(OBJECT);
                write_properties(properties, output);
            }
            Self::EcmaArray(properties) => {
                output.push(ECMA_ARRAY);
                output.extend_from_slice(&u32::try_from(properties.len()).unwrap_or(u32::MAX).to_be_bytes());
                write_properties(properties, output);
            }
            Self::StrictArray(values) => {
                output.push(STRICT_ARRAY);
                output.extend_from_slice(&u32::try_from(values.len()).unwrap_or(u32::MAX).to_be_bytes());
                for value in values {
                    value.write(output);
                }
            }
            Self::Date(milliseconds) => {
                output.push(DATE);
                output.extend_from_slice(&milliseconds.to_be_bytes());
                output.extend_from_slice(&[0, 0]);
            }
            Self::Null => output.push(NULL),
            Self::Undefined => output.push(UNDEFINED),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// A name or short string; names of ours are short, and longer ones are cut at a character.
fn write_text(text: &str, output: &mut Vec<u8>) {
    let text = text.get(..text.floor_char_boundary(usize::from(u16::MAX))).unwrap_or_default();
    output.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    output.extend_from_slice(text.as_bytes());
}

fn write_properties(properties: &[(String, Value)], output: &mut Vec<u8>) {
    for (name, value) in properties {
        write_text(name, output);
        value.write(output);
    }
    output.extend_from_slice(&[0, 0, OBJECT_END]);
}

/// Reads one value after another. Lengths and counts inside are believed only as far as bytes follow.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    elements_left: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, the payload of one message.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, elements_left: ELEMENTS_MAX }
    }

    /// The next value; None at the end.
    pub fn read(&mut self) -> Result<Option<Value>, AmfError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.value(0).map(Some)
    }

    fn value(&mut self, depth: usize) -> Result<Value, AmfError> {
        self.elements_left = self.elements_left.checked_sub(1).ok_or(AmfError::Elements)?;
        let [marker] = self.array()?;
        if matches!(marker, OBJECT | ECMA_ARRAY | STRICT_ARRAY | TYPED_OBJECT) && depth == DEPTH_MAX {
            return Err(AmfError::Depth);
        }
        Ok(match marker {
            NUMBER => Value::Number(f64::from_be_bytes(self.array()?)),
            BOOLEAN => Value::Boolean(self.array()? != [0]),
            STRING => Value::String(self.text()?),
            LONG_STRING | XML_DOCUMENT => {
                let length = u32::from_be_bytes(self.array()?);
                Value::String(self.characters(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            OBJECT => Value::Object(self.properties(depth)?),
            TYPED_OBJECT => {
                self.text()?;
                Value::Object(self.properties(depth)?)
            }
            ECMA_ARRAY => {
                // Its count is a hint; the end marker counts.
                self.array::<4>()?;
                Value::EcmaArray(self.properties(depth)?)
            }
            STRICT_ARRAY => {
                let count = u32::from_be_bytes(self.array()?);
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(depth + 1)?);
                }
                Value::StrictArray(values)
            }
            DATE => {
                let milliseconds = f64::from_be_bytes(self.array()?);
                self.array::<2>()?;
                Value::Date(milliseconds)
            }
            NULL => Value::Null,
            UNDEFINED | UNSUPPORTED => Value::Undefined,
            REFERENCE => {
                self.array::<2>()?;
                Value::Undefined
            }
            AVMPLUS_OBJECT => return Err(AmfError::Amf3),
            _ => return Err(AmfError::Marker),
        })
    }

    fn properties(&mut self, depth: usize) -> Result<Vec<(String, Value)>, AmfError> {
        let mut properties = Vec::new();
        loop {
            let name = self.text()?;
            if name.is_empty() && self.rest.first() == Some(&OBJECT_END) {
                self.array::<1>()?;
                return Ok(properties);
            }
            properties.push((name, self.value(depth + 1)?));
        }
    }

    fn text(&mut self) -> Result<String, AmfError> {
        let length = u16::from_be_bytes(self.array()?);
        self.characters(usize::from(length))
    }

    fn characters(&mut self, length: usize) -> Result<String, AmfError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(AmfError::Truncated)?;
        self.rest = rest;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AmfError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(AmfError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }
}
