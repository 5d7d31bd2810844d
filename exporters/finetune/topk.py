"""Top-k as the operators do it, in torch and with a gradient."""

import torch

__all__ = ["keep_largest"]


def keep_largest(values: torch.Tensor, k: int) -> torch.Tensor:
    """Set all but the k largest of each row to zero; the gradient flows through those that are kept.

    The paper's top-k (arXiv 2210.06313, section 4), with the operators' rules: by magnitude (after a ReLU that is by
    value), and of equal ones the lower index is kept.

    Parameters
    ----------
    values
        [..., d_ff], what goes into the down projection.
    k
        At least 1; from d_ff on nothing changes.

    Returns
    -------
    torch.Tensor
        Of the same shape and type.
    """
    if k >= values.shape[-1]:
        return values
    size = values.detach().abs()
    least = size.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    kept = (size >= least) & (size > 0)
    # Equal values at the edge are rare, and counting them out is dear: only where a row has too many.
    if bool((kept.sum(-1) > k).any()):
        above, equal = size > least, (size == least) & (size > 0)
        room = k - above.sum(-1, keepdim=True)
        kept = above | (equal & (equal.cumsum(-1) <= room))
    return values * kept
