"""Does everything in a chain matter? Each stage is removed, and each number and option changed, on a small probe.

>>> from gradchain import liveness
>>> report = liveness.check(gradchain.chain(sign(), scale_by_learning_rate(0.1)))
>>> report.ok, report.verdict("sign")
(True, 'changes the update')
"""

from gradchain.liveness.inquiry import check as check
from gradchain.liveness.report import HEADER as HEADER
from gradchain.liveness.report import Finding as Finding
from gradchain.liveness.report import Progress as Progress
from gradchain.liveness.report import Report as Report
