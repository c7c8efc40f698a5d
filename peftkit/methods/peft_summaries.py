"""What each method of peft does, in one line with its paper; peft's own docstrings describe configuration classes."""

from __future__ import annotations

from collections.abc import Mapping

PEFT_SUMMARIES: Mapping[str, str] = {
    "beft": "Trained biases, added to the value projections only (BEFT, Huang et al., 2025).",
    "c3a": "Full-rank updates by circular convolutions (C3A, Chen et al., 2024).",
    "deft": "New content for a low-rank subspace of each weight (DEFT, Kumar et al., 2025).",
    "delora": "Low-rank updates of normalized directions and a trained norm (DeLoRA, Bini et al., 2025).",
    "fourierft": "Updates from a few trained Fourier coefficients (FourierFT, Gao et al., 2024).",
    "frod": "Sparse trained coefficients in a full-rank basis that layers share (FRoD, Wan et al., 2026).",
    "glora": "Scales and shifts of weights and biases along several small paths (GLoRA, Chavan et al., 2023).",
    "gralora": "Low-rank updates for each block of a weight (GraLoRA, Jung et al., 2025).",
    "hira": "High-rank updates: elementwise products of weights and a low-rank matrix (HiRA, Huang et al., 2025).",
    "hra": "Rotations of weights by a chain of Householder reflections (HRA, Yuan et al., 2024).",
    "ia3": "Trained scales of keys, values and inner feed-forward activations (IA3, Liu et al., 2022).",
    "loha": "Updates that are elementwise products of two low-rank matrices (LoHa, Yeh et al., 2024).",
    "lokr": "Updates that are Kronecker products, one factor of low rank (LoKr, Yeh et al., 2024).",
    "miss": "Updates from one small matrix that all shards of a weight share (MiSS, Kang and Yin, 2024).",
    "oft": "Rotations of weights by block-diagonal orthogonal matrices (OFT, Qiu et al., 2023).",
    "peanut": "Updates that a small network computes from the weight itself (PEANuT, Zhong et al., 2024).",
    "prompt_tuning": "Trained vectors in front of the text's embeddings (prompt tuning, Lester et al., 2021).",
    "psoft": "Rotations of weights within their main singular directions (PSOFT, Wu et al., 2025).",
    "pvera": "VeRA whose updates are sampled from a trained distribution (PVeRA, Fillioux et al., 2025).",
    "randlora": "Full-rank updates as scaled sums of fixed random matrices (RandLoRA, Albert et al., 2025).",
    "road": "Rotations of pairs of hidden dimensions (RoAd, Liao and Monz, 2024).",
    "shira": "Updates of a sparse selection of each weight's entries (SHiRA, Bhardwaj et al., 2024).",
    "supertuning": "Updates of each weight's entries with the largest magnitude (Super-Tuning, Ilin et al., 2026).",
    "tinylora": "A few numbers for all updates, through fixed random tensors (TinyLoRA, Morris et al., 2026).",
    "unilora": "One trained vector whose entries make up all low-rank matrices (Uni-LoRA, Li et al., 2025).",
    "vblora": "Low-rank matrices composed of vectors from a shared bank (VB-LoRA, Li et al., 2024).",
    "waveft": "Updates from a few trained wavelet coefficients (WaveFT, Bilican et al., 2025).",
}
"""By the method's name, for methods without a class of their own; others have a docstring there."""


def summary(name: str) -> str:
    """Return the line of a method; a newer release of peft may have methods that it does not know."""
    return PEFT_SUMMARIES.get(
        name, f"A method of the installed peft, {name.upper()}, which this peftkit does not know."
    )
