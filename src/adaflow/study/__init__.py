"""The user study (paper Table 2, Appendix C): blind sets of edited videos, a page to judge them on, and the tally."""
