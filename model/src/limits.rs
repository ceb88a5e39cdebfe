//! How large a model may be.
//!
//! A file or a peer can claim any size, so that these are checked before anything is allocated.
//! They are far above the networks this project is for, and low enough that a product of two of
//! them fits 64 bits.

/// Elements of one weight tensor, or of as much of a feature map as is held at a time (1 GiB of
/// f32).
pub const ELEMENTS_MAX: usize = 1 << 28;

/// Elements of one feature map. It may be larger than what anybody holds of it, since it can be
/// computed in parts: a picture of 16384 x 16384 through 256 channels.
pub const MAP_ELEMENTS_MAX: usize = if usize::BITS > 32 { ELEMENTS_MAX << 8 } else { ELEMENTS_MAX };

/// Elements of all constants that one import computes, together.
pub const FOLDED_ELEMENTS_MAX: usize = 1 << 28;

/// Dimensions of one tensor.
pub const RANK_MAX: usize = 8;

/// Layers of one model.
pub const LAYERS_MAX: usize = 1 << 14;

/// Feature maps of one model.
pub const MAPS_MAX: usize = 1 << 15;

/// Weight tensors of one model.
pub const WEIGHTS_MAX: usize = 1 << 15;

/// Inputs of one layer, and inputs or outputs of one model.
pub const ARITY_MAX: usize = 1 << 10;

/// Bytes of one name.
pub const NAME_BYTES_MAX: usize = 1 << 12;

/// Bytes of all metadata entries of one file.
pub const METADATA_BYTES_MAX: usize = 1 << 20;

/// Multiply-adds of one frame.
pub const MULTIPLY_ADDS_MAX: u64 = 1 << 56;

/// The number of elements of a tensor, where it is within the limits.
///
/// An axis of length 0 gives 0: constants may be empty, feature maps may not.
pub fn elements(dims: &[usize]) -> Option<usize> {
    elements_up_to(dims, ELEMENTS_MAX)
}

/// The number of elements of a feature map, where it is within the limits.
pub fn map_elements(dims: &[usize]) -> Option<usize> {
    elements_up_to(dims, MAP_ELEMENTS_MAX)
}

fn elements_up_to(dims: &[usize], most: usize) -> Option<usize> {
    if dims.len() > RANK_MAX {
        return None;
    }
    // A zero must not hide an overflow of the other axes from those who use them one by one.
    let zeros = dims.iter().filter(|dim| **dim == 0).count();
    let product = dims.iter().filter(|dim| **dim != 0).try_fold(1usize, |product, dim| {
        product.checked_mul(*dim).filter(|product| *product <= most)
    })?;
    Some(if zeros == 0 { product } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_dims() {
        assert_eq!(elements(&[]), Some(1));
        assert_eq!(elements(&[2, 3]), Some(6));
        assert_eq!(elements(&[2, 0, 3]), Some(0));
        assert_eq!(elements(&[usize::MAX, 2]), None);
        assert_eq!(elements(&[0, usize::MAX]), None);
        assert_eq!(elements(&[1; 9]), None);
    }
}
