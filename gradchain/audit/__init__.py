"""Find out whether everything in a chain matters: remove each stage, change each number and option, on a small probe.

>>> from gradchain import audit
>>> report = audit.check(gradchain.chain(sign(), scale_by_learning_rate(0.1)))
>>> report.ok, report.verdict("sign")
(True, 'changes the update')
"""

from gradchain._core.text import Progress as Progress
from gradchain.audit.report import HEADER as HEADER
from gradchain.audit.report import Finding as Finding
from gradchain.audit.report import Report as Report
from gradchain.audit.runner import check as check
